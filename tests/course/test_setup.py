"""The set-up files say the same thing, and the environment report says what is wrong."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tinybert_lite import __version__
from tinybert_lite.cli import main
from tinybert_lite.course import environment
from tinybert_lite.course.environment import Check
from tinybert_lite.data import assets

IMPORTED_AS = {"scikit-learn": "sklearn"}
# What a listed package always brings along and shares with its users.
BROUGHT_BY = {
    "huggingface_hub": "transformers",
    "IPython": "ipykernel",
    "jupyter_client": "ipykernel",
    "traitlets": "ipywidgets",
}


@pytest.fixture(scope="session")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def requirements(project):
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(text) for group in groups for text in group]


def exact_versions(root):
    lines = (root / "constraints.txt").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "exact versions only"
    return {name.lower(): version for name, version in (line.split("==") for line in lines)}


# One list of dependencies


def test_conda_and_make_install_the_same_list_under_the_same_constraints(root, project):
    conda = yaml.safe_load((root / "environment.yml").read_text())
    *from_conda, through_pip = conda["dependencies"]
    assert [re.match(r"\w+", text)[0] for text in from_conda] == ["python", "pip"]
    makefile = (root / "Makefile").read_text()
    extras = re.search(r"(?m)^EXTRAS := (.+)$", makefile)[1]
    assert (
        "pip install --disable-pip-version-check $(OFFLINE) -c constraints.txt -e '$(EXTRAS)'"
        in (makefile)
    )
    assert through_pip == {"pip": ["-c constraints.txt", f"-e {extras}"]}
    assert extras == ".[test,export]"
    assert set(project["optional-dependencies"]) == {"test", "export", "excel"}


def test_conda_brings_a_python_that_the_package_accepts(root, project):
    conda = yaml.safe_load((root / "environment.yml").read_text())
    version = conda["dependencies"][0].partition("=")[2]
    assert Requirement(f"python{project['requires-python']}").specifier.contains(version)


def test_every_dependency_has_a_lower_bound_and_a_tested_version_above_it(root, project):
    tested = exact_versions(root)
    for requirement in requirements(project):
        assert [part.operator for part in requirement.specifier] == [">="], requirement
        assert requirement.specifier.contains(tested[requirement.name.lower()]), requirement


def imports_of(folder):
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file.name, alias.name.partition(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield file.name, node.module.partition(".")[0]


def test_the_package_imports_nothing_that_the_list_does_not_name(root, project):
    listed = {item.name for item in requirements(project)}
    assert listed >= set(BROUGHT_BY.values())
    known = {"tinybert_lite", *BROUGHT_BY, *sys.stdlib_module_names}
    known |= {IMPORTED_AS.get(name, name) for name in listed}
    found = set(imports_of(root / "tinybert_lite"))
    assert not {(file, module) for file, module in found if module not in known}


def test_only_assets_starts_pip_and_nothing_goes_through_a_shell(root):
    for file in (root / "tinybert_lite").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"shell=True|os\.system|os\.popen", text), file
        assert file.name == "assets.py" or '"pip", "download"' not in text, file


def test_every_file_that_gives_the_version_gives_the_same(root):
    cited = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    latest = re.search(r"(?m)^## (\S+)", changes)[1]
    assert latest == cited == __version__


# make


@pytest.fixture
def makefile_alone(root, tmp_path):
    """A folder with the set-up files and no .venv; runs make there, never reaching pip."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(root / name, tmp_path)

    def make(*arguments):
        return subprocess.run(["make", *arguments], cwd=tmp_path, capture_output=True, text=True)

    if os.name != "posix" or not shutil.which("make"):
        pytest.skip("make, a tool of POSIX, is not installed")
    return make


def test_make_without_a_python_says_how_to_name_one(makefile_alone):
    said = makefile_alone("setup", "PYTHON=/no/such/python")
    assert said.returncode != 0
    assert "No /no/such/python here" in said.stderr and "PYTHON=" in said.stderr


def test_make_with_an_old_python_says_which_is_needed(makefile_alone, tmp_path):
    old = tmp_path / "old python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n')
    old.chmod(0o755)
    said = makefile_alone("setup", f"PYTHON={old}")
    assert said.returncode != 0
    assert "Python 3.9.2: Python 3.11 or newer is needed" in said.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_lab_stays_on_loopback_with_a_token_and_opens_no_browser_when_told(makefile_alone):
    said = makefile_alone("-n", "lab", "NO_BROWSER=1").stdout
    assert "jupyterlab --ip=127.0.0.1 --no-browser" in said
    first = re.search(r"--LabApp.default_url=/lab/tree/(\S+)", said)[1]
    assert "--ServerApp.root_dir=. " in said and (environment.ROOT / first).is_file()
    assert "token" not in said and "password" not in said, "Jupyter makes its own token"
    assert "--no-browser" not in makefile_alone("-n", "lab").stdout


def test_make_takes_an_offline_folder_with_spaces_for_packages_and_assets(makefile_alone):
    said = makefile_alone("-n", "lab", "WHEELHOUSE=/media/usb stick").stdout
    assert '--no-index --find-links "/media/usb stick" -c constraints.txt' in said


def test_make_help_names_every_target(makefile_alone, root):
    targets = re.search(r"(?m)^\.PHONY: (.+)$", (root / "Makefile").read_text())[1].split()
    said = makefile_alone().stdout
    assert [name for name in targets if name != "help" and f"make {name} " not in said] == []


def test_continuous_integration_runs_make_test_and_insists_on_the_browser(root):
    script = root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert script.read_text().rstrip().endswith("\nREQUIRE_BROWSER=1 make test")


SKIPS = """
import pytest
def test_one(): pass
"""
NO_CUDA = "@pytest.mark.skip(reason='there is no CUDA device')\ndef test_two(): pass\n"
NO_BROWSER = "def test_three(chromium): pass\n"
NO_EXCUSE = "def test_four(): pytest.importorskip('no_such_package')\n"
XFAIL = "@pytest.mark.xfail\ndef test_five(): raise ValueError\n"


@pytest.mark.parametrize("options", [[], ["-n", "1"]])
@pytest.mark.parametrize(
    ("tests", "required", "status", "said"),
    [
        (NO_CUDA + NO_BROWSER, "", 0, "1 browser tests were skipped"),
        (NO_CUDA + XFAIL, "1", 0, "1 passed, 1 skipped, 1 xfailed"),
        (NO_CUDA + NO_BROWSER, "1", 1, "SKIPPED WITHOUT LEAVE"),
        (NO_CUDA + NO_EXCUSE, "", 1, "could not import 'no_such_package'"),
    ],
)
def test_a_skip_that_is_not_allowed_fails_the_run_and_is_named(
    root, tmp_path, tests, required, status, said, options
):
    shutil.copy(root / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(SKIPS + tests, encoding="utf-8")
    environ = {**os.environ, "REQUIRE_BROWSER": required, "CHROMIUM": "/no/such/browser"}
    environ["PYTHONPATH"] = str(root)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    command += ["--rootdir", str(tmp_path), str(tmp_path)]
    run = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert run.returncode == status, run.stdout
    assert said in run.stdout


def test_no_test_looks_outside_the_clone(root):
    for file in (root / "tests").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"""parents\[3\]|ROOT\.parent\b|["'/]\.\./shared""", text) or (
            file.parent.name == "benchmarks" or file == Path(__file__)
        ), f"{file} reads beside the clone"


def test_the_workflows_run_on_every_python_that_is_accepted_and_three_systems(root):
    folder = root / ".github" / "workflows"
    tests = yaml.safe_load((folder / "tests.yml").read_text(encoding="utf-8"))["jobs"]["tests"]
    matrix = tests["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    lint = yaml.safe_load((folder / "lint.yml").read_text(encoding="utf-8"))["jobs"]["lint"]
    assert lint["steps"][-1] == {"run": "make lint"}
    books = yaml.safe_load((folder / "notebooks.yml").read_text(encoding="utf-8"))["jobs"]
    assert books["notebooks"]["steps"][-1] == {"run": ".ci/run"}


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_filled_wheelhouse_sets_a_fresh_clone_up_without_a_network(root, tmp_path):
    house, clone = tmp_path / "wheel house", tmp_path / "clone of it"
    subprocess.run(["make", "wheelhouse", f"WHEELHOUSE={house}"], cwd=root, check=True)
    subprocess.run(["git", "clone", "-q", root, clone], check=True)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    environ |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    environ.pop("TINYBERT_LITE_CACHE", None)
    make = ["make", "setup", f"WHEELHOUSE={house}"]
    subprocess.run(make, cwd=clone, env=environ, check=True)
    environ["TINYBERT_LITE_WHEELHOUSE"] = str(house)
    code = "from tinybert_lite.data import assets; assets.fetch()"
    subprocess.run([clone / ".venv/bin/python", "-c", code], cwd=clone, env=environ, check=True)
    assert (clone / "data" / "cache" / "teacher" / "model.safetensors").is_file()


# The environment report


def test_the_report_finds_this_environment_in_order():
    checks = environment.report(forward=False)
    assert {check.state for check in checks} <= {"ok", "fail", "none"}
    names = [check.name for check in checks]
    assert names[0] == "Python" and {"torch", "disk", "memory", "cores", "GPU"} <= set(names)
    assert all(check.fix for check in checks if check.state == "fail")


def test_the_check_of_make_lab_ends_well_here_and_badly_where_something_fails(capsys, monkeypatch):
    assert main(["check"]) == 0
    assert "This machine is ready." in capsys.readouterr().out
    broken = [Check("two", "fail", "gone", "Bring it back.")]
    monkeypatch.setattr(environment, "report", lambda: broken)
    assert main(["check"]) == 1
    assert "Bring it back." in capsys.readouterr().out


def test_the_text_marks_each_check_and_puts_the_fix_below_the_failed_one():
    checks = [
        Check("one", "ok", "here"),
        Check("two", "fail", "gone", "Bring it back."),
        Check("three", "none", "absent"),
    ]
    text = environment.format_report(checks)
    assert text.startswith(
        "[OK]   one: here\n[FAIL] two: gone\n         Bring it back.\n[--]   three"
    )
    assert "To fix, see above: 1." in text
    assert "For a bug report" in text
    fine = environment.format_report(checks[:1])
    assert "This machine is ready" in fine and "For a bug report" not in fine
    assert "For a bug report" in environment.format_report(checks[:1], block=True)


def test_the_block_to_paste_names_no_personal_folder(root, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("TINYBERT_LITE_CACHE", "/media/ada/cache")
    said = f"/home/ada/x {root}/y {sys.prefix}/z /media/ada/cache/teacher"
    block = environment.paste_block([Check("it", "fail", said)])
    assert "ada" not in block and str(root) not in block
    assert "~/x <clone>/y <python>/z <cache>/teacher" in block


def test_a_missing_asset_is_reported_with_the_command_that_fetches_it(made_up):
    (check, _) = environment._assets()
    assert (check.state, check.detail) == ("fail", "not fetched yet")
    assert "python -m tinybert_lite fetch letters" in check.fix
    assert not made_up.cache.exists(), "a check fetches nothing"
    assets.fetch()
    assert [check.state for check in environment._assets()] == ["ok", "ok"]


def test_a_damaged_asset_is_reported_by_file(made_up):
    assets.fetch()
    (made_up.cache / "letters" / "letters.txt").write_text("short")
    assert "letters/letters.txt has 5 bytes instead of 3000." in environment._assets()[0].detail


def test_a_broken_list_of_assets_is_a_finding_and_no_crash(made_up):
    made_up.manifest.write_text("{")
    assert [check.state for check in environment._assets()] == ["fail"]
    assert environment._teacher().state == "fail"


@pytest.mark.parametrize(
    ("requirement", "state", "detail"),
    [
        ("numpy>=999", "fail", "needed >=999"),
        ("no-such-package>=1", "fail", "is not installed"),
        ("numpy>=1", "ok", "(tested with 0.1)"),
    ],
)
def test_a_missing_or_old_package_fails_and_an_untested_one_is_said(requirement, state, detail):
    check = environment._package(Requirement(requirement), "", {"numpy": "0.1"}, "Fix it.")
    assert check.state == state and detail in check.detail


def test_little_disk_and_memory_fail_with_what_to_do(monkeypatch):
    monkeypatch.setattr(environment, "FREE_DISK", 1e18)
    monkeypatch.setattr(environment, "FREE_MEMORY", 1e18)
    for check in (environment._disk(), environment._memory()):
        assert check.state == "fail" and check.fix


def test_the_teacher_gives_the_expected_numbers(teacher_dir):
    assert environment._teacher().state == "ok"


@pytest.mark.parametrize("numbers", [[0.0] * 4, [float("nan")] * 4])
def test_a_teacher_with_other_numbers_fails(teacher_dir, monkeypatch, numbers):
    monkeypatch.setattr(environment, "teacher_numbers", lambda folder: numbers)
    assert environment._teacher().state == "fail"


def test_a_teacher_that_cannot_be_loaded_is_a_finding_and_no_crash(teacher_dir, monkeypatch):
    def broken(folder):
        raise RuntimeError("kernel image is missing\nand a long story")

    monkeypatch.setattr(environment, "teacher_numbers", broken)
    check = environment._teacher()
    assert check.state == "fail" and check.detail == "RuntimeError: kernel image is missing"
