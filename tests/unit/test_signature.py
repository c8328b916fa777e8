"""What openssl says of signatures: that they are bad, that it cannot tell, or that something went wrong meanwhile."""

from __future__ import annotations

from typing import Optional

import pytest

from kmodd.core.model import Demand, Fault
from kmodd.verify.signature import judge, read_refusal

END = ":../crypto/cms/x.c:1:"
CMS, EVP = "40E7:error:1700006D:CMS routines", "40E7:error:0308010C:digital envelope routines"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        # what openssl 3.0 says of messages of which one bit was changed
        ([f"{CMS}:CMS_SignerInfo_verify_content:verification failure", f"{CMS}:CMS_verify:content verify error"],
         "signature-invalid"),
        (["40E7:error:0200008A:rsa routines:RSA_padding_check_PKCS1_type_1:invalid padding",
          f"{CMS}:CMS_SignerInfo_verify_content:verification failure"], "signature-invalid"),
        ([f"{CMS}:cms_get0_signed:content type not signed data", f"{CMS}:CMS_verify:no signers"], "signature-invalid"),
        ([f"{CMS}:ossl_cms_DigestAlgorithm_find_ctx:no matching digest", f"{CMS}:CMS_verify:content verify error"],
         "signature-invalid"),
        (["40E7:error:0680009B:asn1 encoding routines:asn1_d2i_read_bio:too long"], "signature-invalid"),
        ([f"{EVP}:inner_evp_generic_fetch:unsupported",
          f"{CMS}:ossl_cms_DigestAlgorithm_init_bio:unknown digest algorithm"], "signature-untold"),
        # in FIPS mode
        (["40E7:error:1C800080:Provider routines:rsa_setup_md:digest not allowed",
          f"{CMS}:CMS_SignerInfo_verify_content:verification failure"], "signature-untold"),
        ([f"{CMS}:cms_content_bio:unsupported content type"], "signature-invalid"),
        ([f"{CMS}:CMS_verify:content verify error"], None),
        (["40E7:error:80000002:system library:BIO_new_file:No such file or directory"], None),
    ],
)  # fmt: skip
def test_what_openssl_says_is_known(lines: list[str], problem: Optional[str]) -> None:
    fault = read_refusal("one", "".join(f"{line}{END}\n" for line in lines))
    assert (fault and fault.problem) == problem
    if fault is not None:
        assert judge([fault], Demand())[1] == ("untold" if problem == "signature-untold" else "failed")


def test_what_cannot_be_told_is_said_so() -> None:
    fault = read_refusal("one", f"{EVP}:inner_evp_generic_fetch:unsupported{END}")
    assert isinstance(fault, Fault) and "is not known" in fault.message
