"""Digests that change with code alone, atomic files, devices, suggestions."""

import functools
import os
import platform
import subprocess
import sys
import textwrap

import pytest
import torch
from helpers.files import ROOT

from cryoshift_core.support import runtime
from cryoshift_core.support.runtime import atomic, code_digest, did_you_mean, function_digest, pick_device, write_text


def test_the_automatic_device_is_the_best_one_there_is(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu") and pick_device(torch.device("meta")).type == "meta"
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert pick_device("auto").type == expected


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back to be cleared again")
@pytest.mark.parametrize(("variable", "kept"), [("", True), ("MALLOC_MMAP_THRESHOLD_", False)])
def test_tensors_take_the_memory_of_freed_ones(variable, kept):
    """20 tensors of 16 MB, one after the other, have 80,000 pages; a user's own setting goes before."""
    code = """
        import resource, torch
        from cryoshift_core.support.runtime import pick_device
        pick_device("cpu")
        def faults():
            torch.ones(4 << 20)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        first = max(faults() for _ in range(3))
        print(max(faults() for _ in range(20)) - first)
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= {"PYTHONPATH": str(ROOT)} | ({variable: "131072"} if variable else {})
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 40_000) == kept


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new folder" / "a.txt"
    assert write_text(path, "für µm") == path and path.read_bytes() == "für µm".encode()
    with pytest.raises(KeyboardInterrupt), atomic(path) as partial:
        partial.write_text("half")
        assert path.read_text(encoding="utf-8") == "für µm", "readers see the old file until the block ends"
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "für µm" and os.listdir(path.parent) == ["a.txt"]


def test_suggestions_name_the_nearest_choice_or_none():
    assert did_you_mean("MADDA", ["mada", "dann"]) == "; did you mean 'mada'?"
    assert did_you_mean("xyz", ["mada", "dann"]) == "."


def test_the_root_is_the_nearest_folder_with_a_pyproject(tmp_path, monkeypatch):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a" / "pyproject.toml").touch()
    monkeypatch.chdir(inner)
    assert runtime.root() == tmp_path / "a"
    monkeypatch.chdir(tmp_path)
    assert runtime.root() == tmp_path, "without one it is the current folder"


def test_the_commit_is_unknown_outside_a_checkout(tmp_path, monkeypatch):
    if (ROOT / ".git").exists():
        assert runtime.commit().removesuffix("-dirty").isalnum() and len(runtime.commit()) >= 40
    monkeypatch.setattr(runtime, "PACKAGE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert runtime.commit() == "unknown"

    def no_git(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert runtime.commit() == "unknown"


MODULE = """
def double(x, times=2):
    return times * x
"""
SAME = [
    '"""A module."""\n' + MODULE,
    MODULE.replace("    return", '    """Twice x."""\n    return'),
    "# why\n" + MODULE.replace("return times * x", "return (times * x)  # brackets"),
]
OTHER = [
    MODULE.replace("times=2", "times=3"),
    MODULE.replace("times * x", "times + x"),
    MODULE + "\nx = 1\n",
]


def test_the_digest_of_a_module_changes_with_its_code_and_not_with_its_comments(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "PACKAGE", tmp_path)
    digest = code_digest.__wrapped__  # without the cache of the process

    def of(text, name="module"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return digest("module")

    first = of(MODULE)
    assert [of(text) for text in SAME] == [first] * 3
    assert len({first, *map(of, OTHER)}) == 4
    of(MODULE)
    assert digest("module") == first
    (tmp_path / "wing").mkdir()
    for name in ("one", "two"):
        (tmp_path / "wing" / f"{name}.py").write_text(MODULE, encoding="utf-8")
    wing = digest("wing")
    (tmp_path / "wing" / "two.py").write_text(OTHER[0], encoding="utf-8")
    assert digest("wing") != wing, "a wing counts with all its files"
    assert digest("module", "wing") != digest("wing")


def defined(text, name="f"):
    """The object `name` after running `text` as a module of its own."""
    namespace = {"__name__": "cell"}
    exec(textwrap.dedent(text), namespace)
    return namespace[name]


def test_the_digest_of_a_function_does_not_change_with_comments_and_docstrings():
    first = function_digest(defined(MODULE, "double"))
    assert [function_digest(defined(text, "double")) for text in SAME] == [first] * 3
    nested = "def f(x):\n    def g(y):\n        {}return y\n    return g(x)\n"
    texts = (nested.format(""), nested.format("'''Note.'''\n        "))
    assert len({function_digest(defined(text)) for text in texts}) == 1


CHANGES = {
    "constant": ("def f(x):\n    return 2 * x", "def f(x):\n    return 3 * x"),
    "operation": ("def f(x):\n    return 2 * x", "def f(x):\n    return 2 + x"),
    "default": ("def f(x, k=1):\n    return k * x", "def f(x, k=2):\n    return k * x"),
    "keyword default": ("def f(x, *, k=1):\n    return k * x", "def f(x, *, k=2):\n    return k * x"),
    "method that is called": ("def f(x):\n    return x.mean()", "def f(x):\n    return x.sum()"),
    "set constant": ("def f(x):\n    return x in {1, 2}", "def f(x):\n    return x in {1, 3}"),
    "global constant": ("k = 1\ndef f(x):\n    return k * x", "k = 2\ndef f(x):\n    return k * x"),
    "helper": (
        "def h(x):\n    return x\ndef f(x):\n    return h(x)",
        "def h(x):\n    return -x\ndef f(x):\n    return h(x)",
    ),
    "helper of a helper": (
        "def g(x):\n    return x\ndef h(x):\n    return g(x)\nf = lambda x: h(x)",
        "def g(x):\n    return -x\ndef h(x):\n    return g(x)\nf = lambda x: h(x)",
    ),
    "helper in a comprehension": (
        "def h(x):\n    return x\ndef f(x):\n    return [h(y) for y in x]",
        "def h(x):\n    return -x\ndef f(x):\n    return [h(y) for y in x]",
    ),
    "closure": (
        "def make(k):\n    return lambda x: k * x\nf = make(1)",
        "def make(k):\n    return lambda x: k * x\nf = make(2)",
    ),
    "partial": (
        "from functools import partial\ndef g(k, x):\n    return k * x\nf = partial(g, 1)",
        "from functools import partial\ndef g(k, x):\n    return k * x\nf = partial(g, 2)",
    ),
    "class attribute": ("class f:\n    k = 1", "class f:\n    k = 2"),
    "method": ("class f:\n    def g(self):\n        return 1", "class f:\n    def g(self):\n        return 2"),
    "class method": (
        "class f:\n    @classmethod\n    def g(cls):\n        return 1",
        "class f:\n    @classmethod\n    def g(cls):\n        return 2",
    ),
    "static method": (
        "class f:\n    @staticmethod\n    def g():\n        return 1",
        "class f:\n    @staticmethod\n    def g():\n        return 2",
    ),
    "property": (
        "class f:\n    @property\n    def g(self):\n        return 1",
        "class f:\n    @property\n    def g(self):\n        return 2",
    ),
    "callable object": (
        "class C:\n    def __call__(self, x):\n        return x\nf = C()",
        "class C:\n    def __call__(self, x):\n        return -x\nf = C()",
    ),
    "bound method": (
        "class C:\n    def g(self, x):\n        return x\nf = C().g",
        "class C:\n    def g(self, x):\n        return -x\nf = C().g",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_digest_of_a_function_changes_with_its(what):
    one, other = (function_digest(defined(text)) for text in CHANGES[what])
    assert one != other
    assert one == function_digest(defined(CHANGES[what][0])), "and not between two runs of one cell"
    moved = "\n\n" + CHANGES[what][0]
    assert one == function_digest(defined(moved)), "nor with its position in the file"


def test_functions_that_call_themselves_and_each_other_have_a_digest():
    text = """
    def even(n):
        return n == 0 or odd(n - 1)
    def odd(n):
        return n > 0 and even(n - 1)
    def make():
        def inner(n):
            return inner(n - 1)
        return inner
    f = even
    g = make()
    """
    assert function_digest(defined(text)) != function_digest(defined(text, "odd"))
    assert function_digest(defined(text, "g")) != function_digest(defined(text))
    assert function_digest(functools.partial(max, key=len)) != function_digest(None)


def test_the_digest_of_a_function_is_the_same_in_every_process():
    script = (
        "from cryoshift_core.support.runtime import function_digest\n"
        "from cryoshift_core.methods import TERMS\n"
        "def f(x):\n    return x in {'a', 'b', 'c', 'd'} or [g(y) for y in x]\n"
        "def g(y, k=(1, 'two')):\n    return k, y\n"
        "print(function_digest(f), function_digest(TERMS['dann'].loss), function_digest(TERMS['mada'].adversary))"
    )
    digests = set()
    for seed in ("0", "1"):  # of the order of sets
        env = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-W", "error", "-c", script]
        digests.add(subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout)
    assert len(digests) == 1 and len(set(digests.pop().split())) == 3
