"""An image made of this very Python, without a registry, for tests; a plugin of `tests/conftest.py`.

It holds the interpreter with its standard library, the package tuner, xllamacpp, and in /srv the servers of the tests. `python3` is on its
PATH. Whatever serves here as a process serves there as a container.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import docker
import pytest

import tuner
from tuner.owner import Owner

REPOSITORY = "tuner-test"
_OWNER = "tuner.test.owner"
_TESTS = Path(__file__).parent
_LEFT_OUT = {"__pycache__", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages"}
_SITE = Path("/opt/site")
_EMPTY = ("/dev", "/etc", "/proc", "/sys", "/root", "/tmp")


@pytest.fixture(scope="session")
def image_archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file system of the image."""
    archive = tmp_path_factory.mktemp("image") / "image.tar"
    write_archive(archive)
    yield archive
    archive.unlink()


@pytest.fixture(scope="session")
def docker_image(daemon: docker.DockerClient, image_archive: Path) -> Iterator[str]:
    """The name of the image. It is removed when the session ends; what a killed session left is removed first."""
    for old in daemon.api.images(filters={"label": _OWNER}):
        if not Owner.parse(old["Labels"][_OWNER]).alive():
            daemon.api.remove_image(old["Id"], force=True)
    name = import_image(daemon, image_archive)
    yield name
    daemon.api.remove_image(name, force=True)


def import_image(daemon: docker.DockerClient, archive: Path) -> str:
    """Makes an image of its file system and returns its name."""
    tag = secrets.token_hex(6)
    environment = f"ENV PATH=/usr/bin:/bin PYTHONPATH={_SITE} PYTHONDONTWRITEBYTECODE=1"
    changes = [environment, "WORKDIR /srv", "VOLUME /data", f"LABEL {_OWNER}={Owner.current().to_str()}"]
    daemon.api.import_image_from_file(str(archive), repository=REPOSITORY, tag=tag, changes=changes)
    name = f"{REPOSITORY}:{tag}"
    daemon.images.get(name)
    return name


def write_archive(path: Path) -> None:
    """Writes the file system of the image."""
    interpreter = Path(sys.executable).resolve()
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    found = find_spec("xllamacpp")
    assert found is not None
    assert found.origin is not None
    engine = Path(found.origin).parent
    extensions = [*standard.glob("lib-dynload/*.so"), *engine.glob("*.so")]
    with tarfile.open(path, "w") as archive:
        for folder in _EMPTY:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "/tmp" else 0o755
            archive.addfile(entry)
        _add(archive, interpreter, interpreter)
        link = tarfile.TarInfo("/usr/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, str(interpreter)
        archive.addfile(link)
        for library in sorted(_libraries([interpreter, *extensions])):
            _add(archive, library.resolve(), library)
        _add(archive, standard, standard)
        _add(archive, engine, _SITE / "xllamacpp")
        _add(archive, Path(tuner.__file__).parent, _SITE / "tuner")
        for server in (_TESTS / "conformance/stub_server.py", *sorted((_TESTS / "standins").glob("[a-z]*.py"))):
            _add(archive, server, Path("/srv") / server.name)


def _add(archive: tarfile.TarFile, source: Path, target: Path) -> None:
    archive.add(source, str(target), filter=_kept)


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(entry.name)
    if name.name in _LEFT_OUT or name.name.startswith("config-3.") or name.suffix in {".pyc", ".a", ".o"}:
        return None
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _libraries(programs: list[Path]) -> set[Path]:
    """All shared libraries, at the paths where the loader looks for them."""
    output = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=True).stdout
    return {Path(found) for found in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", output, re.MULTILINE)}
