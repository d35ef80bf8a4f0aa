"""Images of containers: made on this machine from the recipes in `sandboxes/images/`, without any registry.

    python -m gateway.sandbox.images [NAME]

builds the image of a recipe and hands it to the engine. A driver never builds one by itself: that takes
a minute and the network, so the operator starts it. What stands in an image follows from its recipe alone,
so the tag carries the recipe's hash and an image of an older recipe is not found.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import Field

from gateway.core.documents import read_document
from gateway.core.fields import FrozenModel
from gateway.data import data_folder
from gateway.errors import SandboxError, SandgateError, UsageError

from .docker import Engine, Image
from .runtimes import python_runtime

__all__ = [
    "Images",
    "Recipe",
    "add_image",
    "build_archive",
    "build_image",
    "check_image",
    "ensure_image",
    "read_recipe",
    "remove_old_images",
]

REPOSITORY = "sandgate"
PYTHON_LABEL = "sandgate.python"
DIGEST_DIGITS = 12
INSTALL = "an image is built with mmdebstrap, which is not installed: run `apt-get install mmdebstrap`"
HELPER_PYTHON = "/usr/bin/python3"
MOST_SAID = 2000


class RecipeFile(FrozenModel):
    """A `recipe.yaml`: the Debian release, what is installed of it, and what becomes of that."""

    suite: str
    python: str
    packages: list[str]
    leave_out: list[str] = Field(default_factory=list[str])
    compile: list[str] = Field(default_factory=list[str])
    remove: list[str] = Field(default_factory=list[str])
    files: dict[str, str] = Field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe that was read. `tag` is what its image is called."""

    name: str
    tag: str
    contents: RecipeFile


class Images(Protocol):
    """The engine, as far as images go."""

    def image(self, tag: str) -> Image | None:
        """Return the image `tag`, or None."""
        ...

    def import_image(self, archive: Path, tag: str, changes: list[str]) -> None:
        """Make the image `tag` of a tar file; `changes` are lines such as `LABEL a=b`."""
        ...

    def image_tags(self, label: str) -> list[str]:
        """Return the tags of every image that carries the label."""
        ...

    def remove_image(self, tag: str) -> bool:
        """Take the tag away, and the image if it was its last; False where a container uses it."""
        ...


def read_recipe(name: str) -> Recipe:
    """Read `sandboxes/images/<name>/recipe.yaml`. Raises `UsageError` or `ConfigError`."""
    folder = data_folder("sandboxes") / "images"
    file = folder / name / "recipe.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.parent.name for path in folder.glob("*/recipe.yaml")))
        raise UsageError(f"no image recipe {name!r}: use one of {known}")
    text = file.read_text(encoding="utf-8")
    contents = read_document(text, str(file)).parse(RecipeFile)
    digest = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS]
    return Recipe(name, f"{REPOSITORY}/{name}:{digest}", contents)


def ensure_image(images: Images, recipe: Recipe) -> Image:
    """Return the image of `recipe`. Raises `UsageError` with the next step where there is none that fits."""
    found = images.image(recipe.tag)
    if found is None:
        raise UsageError(
            f"the engine has no image {recipe.tag}: "
            f"build it with `python -m gateway.sandbox.images {recipe.name}`"
        )
    return check_image(recipe, found)


def check_image(recipe: Recipe, found: Image) -> Image:
    """Return `found` if servers can run on it: packages were installed for the gateway's own Python.

    A Python outside /usr is mounted into containers. One below /usr is not: the image's takes its place.
    """
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    theirs = found.labels.get(PYTHON_LABEL, "")
    if not python_runtime().mounts and theirs != ours:
        raise UsageError(
            f"the gateway runs on the system's Python {ours} and {recipe.tag} has {theirs or 'none'}: set "
            f"`suite` and `python` in sandboxes/images/{recipe.name}/recipe.yaml to this machine's release, "
            "or run the gateway on a Python outside /usr, which is mounted into containers"
        )
    return found


def remove_old_images(images: Images, recipe: Recipe) -> list[str]:
    """Remove what was made of earlier versions of `recipe` and no container uses; return their tags.

    Ours are told by both the label and the tag: an image built on ours has the label too.
    """
    own = re.compile(rf"{REPOSITORY}/{re.escape(recipe.name)}:[0-9a-f]{{{DIGEST_DIGITS}}}")
    old = [tag for tag in images.image_tags(PYTHON_LABEL) if own.fullmatch(tag) and tag != recipe.tag]
    return [tag for tag in old if images.remove_image(tag)]


def build_archive(recipe: Recipe, archive: Path) -> None:
    """Build the tree of `recipe` as a tar file. Takes a minute. Raises `UsageError` or `SandboxError`."""
    if shutil.which("mmdebstrap") is None:
        raise UsageError(INSTALL)
    with tempfile.TemporaryDirectory() as folder:
        command = ["mmdebstrap", "--quiet", "--variant=essential", "--format=tar", "--skip=cleanup"]
        command += [
            f"--include={','.join(recipe.contents.packages)}",
            *_options(recipe.contents, Path(folder)),
        ]
        done = subprocess.run(
            [*command, recipe.contents.suite, str(archive)], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        archive.unlink(missing_ok=True)
        raise SandboxError(f"mmdebstrap could not build {recipe.name}: {done.stderr.strip()[-MOST_SAID:]}")


def _options(contents: RecipeFile, folder: Path) -> Iterator[str]:
    yield from (f"--dpkgopt=path-exclude={pattern}" for pattern in contents.leave_out)
    for number, (target, text) in enumerate(sorted(contents.files.items())):
        source = folder / str(number)
        source.write_text(text)
        yield f"--customize-hook=upload {source} {target}"
    yield from (f'--customize-hook=rm -rf "$1"{shlex.quote(path)}' for path in contents.remove)
    if contents.compile:
        wanted = f"{HELPER_PYTHON} -m compileall -q -f -j 0 --invalidation-mode unchecked-hash"
        yield f'--customize-hook=chroot "$1" {wanted} {shlex.join(contents.compile)}'
    yield '--customize-hook=find "$1" -xdev -type f -perm /6000 -exec chmod a-s {} +'


def add_image(images: Images, recipe: Recipe, archive: Path) -> None:
    """Hand a built tree to the engine as the image of `recipe`."""
    labels = {PYTHON_LABEL: recipe.contents.python}
    images.import_image(archive, recipe.tag, [f'LABEL {key}="{value}"' for key, value in labels.items()])


def build_image(images: Images, name: str) -> Recipe:
    """Build the image `name` unless the engine has it. Raises `SandgateError`."""
    recipe = read_recipe(name)
    if images.image(recipe.tag) is None:
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / f"{recipe.name}.tar"
            build_archive(recipe, archive)
            add_image(images, recipe, archive)
    return recipe


def main(arguments: list[str]) -> int:
    """Build the image that `arguments` name, `base` by default; return an exit code."""
    try:
        engine = Engine()
        try:
            recipe = build_image(engine, *(arguments or ["base"])[:1])
        finally:
            engine.close()
    except SandgateError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{recipe.tag} is there\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
