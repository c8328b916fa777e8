"""The table of module kinds: what modules of the campaign are like when nothing is wrong with them.

Each is compiled once for a kernel under a name that ends in the number 0000; a case has a copy of it in which that
number is another one (module files hold no lengths or digests of their names), so that hundreds of modules that do
not know each other cost no compiler.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NUMBER = "0000"
VERSION = 'MODULE_VERSION("1");\n'
PRINT = 'pr_info("number %d\\n", number); return 0;'
NUMERIC = "static int number;\nmodule_param(number, int, 0444);\n"
SCALARS = ("byte", "short", "ushort", "int", "uint", "long", "ulong", "ullong", "hexint", "bool", "invbool")
C_TYPES = {"byte": "u8", "ushort": "u16", "uint": "u32", "ulong": "unsigned long", "ullong": "u64", "hexint": "u32",
           "invbool": "bool"}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A row. includes: headers; body: C before init; start: what init does, "" for a module without any.

    needs: kinds that export what it uses, loaded before it. in_tree: the kernel's own module that it needs. special:
    it does not load as it is, or belongs to one fault: nothing else is done to it.
    """

    name: str
    body: str = ""
    start: str = PRINT
    includes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    in_tree: str = ""
    license: str = "GPL"
    special: bool = False

    def text(self) -> str:
        """Return the C file."""
        name = f"{self.name}_{NUMBER}"
        lines = "".join(f"#include <linux/{header}.h>\n" for header in ("module", *self.includes))
        lines += NUMERIC + self.body.replace("NAME", name).replace("_NUMBER", f"_{NUMBER}")
        if self.start:
            lines += f"\nstatic int __init {name}_init(void) {{ {self.start.replace('_NUMBER', f'_{NUMBER}')} }}\n"
            lines += f"static void __exit {name}_exit(void) {{ {self._stop()} }}\n"
            lines += f"module_init({name}_init);\nmodule_exit({name}_exit);\n"
        return f'{lines}MODULE_LICENSE("{self.license}");\nMODULE_DESCRIPTION("{self.name}");\n{VERSION}'

    def _stop(self) -> str:
        found = re.search(r"misc_register\((.*?)\)|pci_register_driver\((.*?)\)", self.start)
        if not found:
            return ""
        return f"misc_deregister({found[1]});" if found[1] else f"pci_unregister_driver({found[2]});"


def _export(macro: str, more: str = "") -> str:
    return f"int NAME_value(int n);\nint NAME_value(int n) {{ return n + 1; }}\n{macro}(NAME_value{more});\n"


def _use(provider: str) -> tuple[str, str]:
    """Return the declaration of a provider's function, and the init that calls it."""
    call = f"{provider}_NUMBER_value(number)"
    return f"int {provider}_NUMBER_value(int n);\n", f'pr_info("number %d\\n", {call}); return 0;'


def _scalars() -> str:
    return "".join(
        f"static {C_TYPES.get(kind, kind)} a_{kind};\nmodule_param(a_{kind}, {kind}, 0444);\n" for kind in SCALARS
    )


ARRAYS = """\
static int ints[4]; static int count; module_param_array(ints, int, &count, 0444);
static u8 bytes[3]; module_param_array(bytes, byte, NULL, 0444);
static char *texts[2]; module_param_array(texts, charp, NULL, 0444);
static bool flags[2]; module_param_array(flags, bool, NULL, 0444);
static int inner[2]; module_param_array_named(renamed, inner, int, NULL, 0444);
static char *word = "none"; module_param(word, charp, 0444);
static char buffer[8]; module_param_string(buffer, buffer, sizeof(buffer), 0444);
static bool flag; module_param(flag, bool, 0444);
static int bint; module_param(bint, bint, 0444);
static int risky; module_param_unsafe(risky, int, 0444);
"""
CALLBACKS = """\
static int set(const char *value, const struct kernel_param *kp)
{
	return value && !strncmp(value, "good", 4) ? 0 : -EINVAL;
}
static const struct kernel_param_ops ops = { .set = set };
module_param_cb(called, &ops, NULL, 0444);
static int set_any(const char *value, const struct kernel_param *kp) { return value ? -EINVAL : 0; }
static const struct kernel_param_ops flag_ops = { .flags = KERNEL_PARAM_OPS_FL_NOARG, .set = set_any };
module_param_cb(bare, &flag_ops, NULL, 0444);
static int positive(const char *value, const struct kernel_param *kp)
{
	int error = param_set_int(value, kp);
	return error ? error : *(int *)kp->arg < 0 ? -ERANGE : 0;
}
static const struct kernel_param_ops positive_ops = { .set = positive, .get = param_get_int };
static int sized; module_param_cb(sized, &positive_ops, &sized, 0444);
"""
MACHINERY = """\
static DEFINE_STATIC_KEY_FALSE(key);
static DEFINE_PER_CPU(int, counter);
static DEFINE_MUTEX(lock);
static LIST_HEAD(list);
static int table[64] __ro_after_init;
static noinline int branch(int n)
{
	WARN_ON(n < -1000);
	return static_branch_unlikely(&key) ? n : table[n & 63];
}
static int observe(struct notifier_block *b, unsigned long e, void *d) { return branch((int)e); }
static struct notifier_block block = { .notifier_call = observe };
extern int NAME_nobody(int n) __attribute__((weak));
"""
MACHINE = """\
if (block.notifier_call == NULL || !list_empty(&list)) return -EINVAL;
mutex_lock(&lock); this_cpu_inc(counter); table[1] = number; mutex_unlock(&lock);
if (MACHINE_nobody) number = MACHINE_nobody(1);
pr_info("number %d\\n", number + branch(1)); return 0;"""
CHARACTER = """\
static ssize_t get(struct file *f, char __user *to, size_t n, loff_t *at) { return put_user('x', to) ? -EFAULT : 0; }
static const struct file_operations operations = { .owner = THIS_MODULE, .read = get };
static struct miscdevice device = { .minor = MISC_DYNAMIC_MINOR, .name = "NAME", .fops = &operations };
"""
PCI = """\
static const struct pci_device_id ids[] = { { PCI_DEVICE(0x1234, 0x9999) }, { } };
MODULE_DEVICE_TABLE(pci, ids);
static int probe(struct pci_dev *device, const struct pci_device_id *id) { return -ENODEV; }
static struct pci_driver driver = { .name = "NAME", .id_table = ids, .probe = probe };
"""
CRC8 = "static u8 crcs[CRC8_TABLE_SIZE];\n"
POPULATE = "crc8_populate_msb(crcs, 7); return 0;"
USE_CRC8 = 'crc8_populate_msb(crcs, 7); pr_info("%d\\n", crc8(crcs, (u8 *)"x", 1, 0)); return 0;'

KINDS = {
    kind.name: kind
    for kind in (
        Kind("plain"),
        Kind("scalars", _scalars()),
        Kind("arrays", ARRAYS),
        Kind("callbacks", CALLBACKS),
        Kind("library", _export("EXPORT_SYMBOL"), ""),
        Kind("enodev", start="return number ? 0 : -ENODEV;"),
        Kind("machine", MACHINERY, MACHINE.replace("MACHINE", "machine_NUMBER"), ("jump_label", "mutex", "list",
             "notifier", "percpu")),
        Kind("chardev", CHARACTER, "return misc_register(&device);", ("fs", "miscdevice", "uaccess")),
        Kind("pcidriver", PCI, "return pci_register_driver(&driver);", ("pci",)),
        Kind("closed", license="Proprietary"),
        Kind("provider", _export("EXPORT_SYMBOL_GPL")),
        Kind("consumer", *_use("provider"), needs=("provider",)),
        Kind("spaced", _export("EXPORT_SYMBOL_NS_GPL", ", HELD")),
        Kind("importer", f"{_use('spaced')[0]}MODULE_IMPORT_NS(HELD);\n", _use("spaced")[1], needs=("spaced",)),
        Kind("middle", _use("provider")[0] + _export("EXPORT_SYMBOL"), _use("provider")[1], needs=("provider",)),
        Kind("top", *_use("middle"), needs=("provider", "middle")),
        Kind("checksum", CRC8, USE_CRC8, ("crc8",), in_tree="crc8"),
        Kind("ccitt", "", 'pr_info("%d\\n", crc_itu_t(0, (u8 *)"x", 1)); return 0;', ("crc-itu-t",),
             in_tree="crc_itu_t"),
        Kind("seven", "", 'pr_info("%d\\n", crc7_be(0, (u8 *)"x", 1)); return 0;', ("crc7",), in_tree="crc7"),
        Kind("bitbang", "", "return number > 1000 ? i2c_bit_add_bus(NULL) : 0;", ("i2c", "i2c-algo-bit"),
             in_tree="i2c_algo_bit"),
        Kind("mapper", "", 'if (number > 1000) dm_unregister_target(NULL); return 0;', ("device-mapper",),
             in_tree="dm_mod"),
        Kind("doubled", CRC8 + _export("EXPORT_SYMBOL"), POPULATE, ("crc8",), in_tree="crc8", special=True),
        Kind("percpu", "static DEFINE_PER_CPU(char[32768], much);\n", "this_cpu_inc(much[number & 7]); return 0;",
             ("percpu",), special=True),
    )
}  # fmt: skip
