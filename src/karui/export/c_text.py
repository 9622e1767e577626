"""How numbers, names and kernels become C text. Nothing here knows what a Program is."""

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

import numpy as np

from karui.errors import RecipeError

LINE = 120
_GUARD = "\0"  # stands in no C source
KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register restrict return "
    "short signed sizeof static struct switch typedef union unsigned void volatile while example bool catch class delete export friend "
    "main mutable namespace new operator private protected public template this throw true false try typename using virtual".split()
)
C_TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "uint16": "uint16_t", "int32": "int32_t", "int64": "int64_t"}
C_TYPES |= {"uint32": "uint32_t", "float32": "float"}


def checked_name(name: str) -> str:
    """A model's name, which becomes the prefix of its symbols; raises RecipeError where C could not take it."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,40}", name) or name.lower() in KEYWORDS:
        raise RecipeError(
            f"name '{name}' can't be the prefix of C symbols and file names; use letters, digits and _, a letter first, at most 41 in all"
        )
    return name


def identifier(text: str) -> str:
    """Any text as the rest of an identifier: ``layer1.0.conv`` → ``layer1_0_conv``."""
    return re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]", "_", text)).strip("_") or "x"


def comment(text: str) -> str:
    """Any text on one line that can't end a comment or mean something to the preprocessor."""
    return re.sub(r"[^A-Za-z0-9 _.,:;+()\[\]=×·→-]", "_", text)


def string(text: str) -> str:
    """A C string literal; what isn't plain ASCII is written as octal bytes of its UTF-8."""
    plain = "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode())
    return f'"{plain}"'


def theirs(text: str) -> str:
    """A text of the user's inside the source of a model: ``prefixed`` leaves it as it is."""
    return re.sub(r"\b([kK])_", rf"\1{_GUARD}_", text)


def number(value: float) -> str:
    """A float constant that reads back as the same float32; infinities are those of math.h."""
    if np.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = str(np.float32(value))
    return text + "f"


# ── The hand-written kernels ────────────────────────────────────────────────────────────────────────────────────────────────────────

RUNTIME = (
    "weights",
    "layer",
    "mac_i8",
    "mac_f32",
    "moves",
    "elementwise",
    "reduce",
    "norm",
    "recurrent",
    "unary",
    "exits",
    "cpu_x86",
    "threads",
    "panel",
    "panel_plain",
    "listed",
    "depth_avx2",
    "panel_avx2",
    "store_vnni",
    "panel_vnni",
    "depth_vnni",
    "listed_vnni",
    "pools_avx512",
    "panel_arm",
    "pairs",
    "few",
    "few_avx2",
    "few_vnni",
    "few_arm",
    "few_pair",
    "signs",
    "signs_avx2",
    "signs_avx512",
    "signs_arm",
    "duo_column",
    "duo",
    "duo_forms",
    "duo_listed",
    "packed_one",
    "duo_lines",
    "duo_depth",
    "signs_word",
    "signs_table",
    "signs_tabled",
    "signs_few",
    "floats",
    "floats_x86",
    "floats_arm",
)
_DEFINES = re.compile(r"^(?:static [\w *]*?(k_\w+)\(|typedef [^;{]*?(k_\w+)[(;]|\} (k_\w+);|#define (k_\w+))", re.M)
_NAME = re.compile(r"\bk_\w+")
_COMMENT = re.compile(r"/\*.*?\*/", re.S)
# C99's functions of floats end in f; its macros for what isn't finite are in the same header
_MATH = re.compile(r"\b(?!sizeof\b|if\b)[a-z][a-z0-9]*f\(|\b(?:INFINITY|NAN|HUGE_VALF?)\b|\bis(?:nan|inf|finite)\(")


@cache
def chunks() -> dict[str, str]:
    """Every kernel and type of c_runtime by its name, in the order in which C wants them. A chunk begins with a comment at the margin."""
    found: dict[str, str] = {}
    for stem in RUNTIME:
        text = (files("karui.export") / "c_runtime" / f"{stem}.c").read_text(encoding="utf-8")
        text = "\n".join(line for line in text.splitlines() if not line.startswith("#include"))
        for chunk in re.split(r"\n\n+(?=/\*|typedef)", text):
            for match in _DEFINES.finditer(chunk):
                name, whole = next(filter(None, match.groups())), chunk.strip() + "\n"
                if found.setdefault(name, whole) != whole:
                    raise ValueError(f"c_runtime: '{name}' has two meanings, the second in {stem}.c")  # whoever adds a kernel reads this
    return found


def kernels(names: Iterable[str]) -> str:
    """The text of these kernels and of all that they use, each once."""
    all_chunks, wanted, todo = chunks(), set(), list(names)
    while todo:
        name = todo.pop()
        if name in wanted or name not in all_chunks:
            continue
        wanted.add(name)
        todo.extend(_NAME.findall(all_chunks[name]))
    return "\n".join(dict.fromkeys(text for name, text in all_chunks.items() if name in wanted))


def prefixed(text: str, name: str) -> str:
    """Kernels and tables are called ``k_…`` and ``K_…`` until here: give them the model's name, but for what is ``theirs``."""
    prefix = {"k_": f"{name}_", "K_": f"{name.upper()}_"}
    return re.sub(r"\b[kK]_(?=\w)", lambda found: prefix[found[0]], text).replace(_GUARD, "")


def includes(text: str) -> str:
    """Headers of threads, where they are asked for, and of the instruction sets that C text wants."""
    return ("#if defined(K_THREADS)\n#include <pthread.h>\n#endif\n" if "K_THREADS" in text else "") + _instructions(text)


def _instructions(text: str) -> str:
    """Where the compiler has them and nobody asks for plain C (-DNAME_PLAIN)."""
    if "K_X86" in text:
        found = "defined(__x86_64__) && defined(__GNUC__) && !defined(K_PLAIN)"
        return f"#if {found}\n#include <cpuid.h>\n#include <immintrin.h>\n#define K_X86\n#endif\n"
    if "K_DSP" in text:
        found = "defined(__ARM_FEATURE_DSP) && defined(__thumb2__) && defined(__GNUC__) && !defined(K_PLAIN)"
        return f"#if {found}\n#include <arm_acle.h>\n#define K_DSP\n#endif\n"
    if "K_ARM64" in text:
        system = "#if defined(__linux__)\n#include <sys/auxv.h>\n#endif\n" if "getauxval" in text else ""
        begin = "#if defined(__aarch64__) && defined(__GNUC__) && !defined(K_PLAIN)\n#include <arm_neon.h>\n"
        return f"{begin}{system}#define K_ARM64\n#endif\n"
    return ""


def uses_math(text: str) -> bool:
    """Does C text want math.h? What comments say of it doesn't count."""
    return _MATH.search(_COMMENT.sub("", text)) is not None
