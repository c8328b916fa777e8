"""All rows of the tables of faults, and what the classes are."""

from __future__ import annotations

import faults_around
import faults_line
import faults_object
import faults_options

FAULTS = (*faults_line.FAULTS, *faults_around.FAULTS, *faults_object.FAULTS, *faults_options.FAULTS)
CLASSES = {
    "A1": "signature enforcement on the command line",
    "A2": "what the command line refuses by name",
    "A3": "modprobe.blacklist=",
    "A4": "parameters on the command line",
    "A5": "where the command line is written",
    "B6": "a provider of ours that does not load",
    "B7": "a provider of the kernel's that does not load",
    "B8": "another kernel's file in the closure",
    "C9": "named as something built in",
    "C10": "named as what only has parameters",
    "C11": "exports of two modules",
    "D12": "the signature's trailer",
    "D13": "cut off, then signed",
    "D14": "what the loader does not take in an ELF file",
    "D15": "versions of some symbols missing",
    "D16": "per-cpu data beyond the reserve",
    "D16+": "what crashes a kernel that loads it",
    "E17": "arrays, strings, flags and callbacks",
    "E18": "/usr/local/lib/modprobe.d",
    "F": "another name inside",
    "FA1": "no vermagic or versions, where that may be",
    "FA2": "words behind --",
    "FA3": "compression that belies the suffix",
    "FA4": "install lines that load it",
    "FA5": "id_type of the trailer",
    "O": "what was in order before",
}

assert len({fault.title for fault in FAULTS}) == len(FAULTS)
assert {fault.klass for fault in FAULTS} == set(CLASSES)
