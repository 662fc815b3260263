"""What the command line imports before it is asked to work."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate", "pandas")


def imported_by(*arguments: str) -> set[str]:
    """The top-level modules that `tunesmith *arguments` loads."""
    program = (
        "import sys\nfrom tunesmith.cli.main import main\n"
        f"sys.argv = ['tunesmith', *{list(arguments)!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stderr.splitlines()}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *(
            [verb, "--help"]
            for verb in (
                "demo",
                "data",
                "advise",
                "plan",
                "train",
                "sweep",
                "evaluate",
                "compare",
                "eject",
                "export",
                "chat",
                "serve",
                "keys",
                "jobs",
                "bench",
            )
        ),
        *(["jobs", verb, "--help"] for verb in ("submit", "list", "watch", "cancel", "download")),
        *(["data", verb, "--help"] for verb in ("check", "convert", "clean", "split", "show")),
    ],
    ids=" ".join,
)
def test_help_imports_no_training_library(arguments: list[str]) -> None:
    assert imported_by(*arguments).isdisjoint(HEAVY)


def test_importing_the_package_gives_the_verbs_and_imports_nothing_heavy() -> None:
    program = "import sys, tunesmith; assert callable(tunesmith.train); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()}.isdisjoint(HEAVY)


def test_every_verb_is_a_function_of_the_package_even_after_its_modules_are_imported() -> None:
    program = (
        "import pkgutil, importlib, tunesmith\n"
        "for module in pkgutil.iter_modules(tunesmith.__path__): importlib.import_module(f'tunesmith.{module.name}')\n"
        "hidden = [name for name in tunesmith.__all__ if not callable(getattr(tunesmith, name))]\n"
        "assert not hidden, hidden\n"
        "assert {'check', 'convert', 'clean', 'split', 'train', 'serve', 'submit_job'} <= set(tunesmith.__all__)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_checking_and_planning_import_no_training_library(tickets: str) -> None:
    assert imported_by("data", "check", tickets).isdisjoint({"torch", "transformers"})
    assert imported_by("plan", tickets, "--model", "embedded").isdisjoint({"torch", "transformers"})


def test_training_imports_neither_the_compiler_nor_scipy_which_object_detection_still_finds() -> None:
    program = (
        "import sys, os\n"
        "from tunesmith.imports import heavy_imports\n"
        "with heavy_imports(): import tunesmith.training.run\n"
        "assert 'TORCHDYNAMO_DISABLE' not in os.environ\n"
        "print(*sys.modules)\n"
        "from transformers.loss.loss_for_object_detection import linear_sum_assignment\n"
        "assert linear_sum_assignment([[1, 2], [3, 9]])[1].tolist() == [1, 0]"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()).isdisjoint({"torch._inductor.compile_fx", "scipy.optimize"})


def test_training_has_transformers_read_its_models_for_names_once_and_finds_all_of_them() -> None:
    program = (
        "import transformers\n"
        "from transformers.utils import import_utils\n"
        "from tunesmith.imports import heavy_imports\n"
        "read, find = [], import_utils.fetch__all__\n"
        "import_utils.fetch__all__ = lambda source: read.append(source) or find(source)\n"
        "with heavy_imports(): found = set(dir(transformers.models))\n"
        "assert len(read) < 100, len(read)\n"
        "import_utils.define_import_structure.cache_clear()\n"
        "again = import_utils.define_import_structure(transformers.models.__file__)\n"
        "assert len(read) > 1000, len(read)\n"
        "names = {name for modules in again.values() for inside in modules.values() for name in inside}\n"
        "assert 'LlamaForCausalLM' in names\n"
        "assert names <= found, names - found"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
