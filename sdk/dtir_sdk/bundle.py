"""The bundle: a folder with a manifest and the graphs that one party may hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from importlib import resources
from os import PathLike
from pathlib import Path

from dtir_sdk.errors import BundleError
from dtir_sdk.files import reason
from dtir_sdk.manifest import MANIFEST, Manifest, ModelName, listed
from dtir_sdk.onnx_file import holds_external_data


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        folder: where it lies.
        manifest: what it says about itself.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | PathLike[str] | None = None) -> Bundle:
        """Opens a bundle: reads its manifest and checks that its files are there.

        Files are hashed when they are used, by `model`, or all of them by `verify`.

        Args:
            path: the bundle's folder; None is the one that comes with dtir.

        Raises:
            BundleError: it is missing, wrongly built, newer than this version, or its manifest
                names more than its party may hold. Other files in its folder are not looked at.

        Examples:
            >>> Bundle.open("no/such/folder")
            Traceback (most recent call last):
            ...
            dtir_sdk.errors.BundleError: no/such/folder is not there: name a bundle's folder...
        """
        folder = default_folder() if path is None else Path(path)
        manifest_path = folder / MANIFEST
        try:
            if not folder.is_dir():
                if path is None:
                    raise BundleError(f"{folder} is missing: reinstall dtir, or name a bundle")
                what = "is a file" if folder.exists() else "is not there"
                raise BundleError(f"{folder} {what}: name a bundle's folder, with a {MANIFEST}")
            if not manifest_path.is_file():
                raise BundleError(f"{folder} is no bundle: it holds no {MANIFEST}")
            text = manifest_path.read_bytes()
        except (OSError, ValueError) as error:
            raise BundleError(f"{manifest_path} could not be read: {reason(error)}") from error
        bundle = cls(folder, Manifest.from_json(text, str(manifest_path)))
        for held in bundle._all():
            for name in held.manifest.files:
                held.model_path(name)
        return bundle

    def in_int8(self) -> Bundle:
        """Returns the same bundle with its INT8 graphs in place of the others.

        Raises:
            BundleError: it holds none.
        """
        manifest = self.manifest
        if not manifest.int8_files:
            raise BundleError(
                f"{self.folder} holds no graphs in INT8: make such a bundle with `dtir-export "
                "--int8`"
            )
        return Bundle(self.folder, replace(manifest, files=manifest.int8_files, int8_files={}))

    def model_path(self, name: ModelName) -> Path:
        """Returns where a graph lies.

        Args:
            name: `transfer`, `recognizer` or `restorer`.

        Raises:
            BundleError: the bundle does not hold it, or the file is missing.
        """
        manifest = self.manifest
        if name not in manifest.files:
            raise BundleError(
                f"{self.folder} holds no {name}: its role is {manifest.role!r} and it holds "
                f"{listed(manifest.files)} only"
            )
        path = self.folder / manifest.files[name].file
        try:
            # It may be a link, as in shared caches: what it leads to is hashed when it is read.
            present = path.is_file()
        except OSError as error:
            raise BundleError(f"{path} could not be read: {reason(error)}") from error
        if not present:
            raise BundleError(f"{path} is missing: copy or export the bundle again")
        return path

    def model(self, name: ModelName) -> bytes:
        """Reads a graph. The bytes returned are the very bytes that were checked.

        Args:
            name: `transfer`, `recognizer` or `restorer`.

        Returns:
            The ONNX file.

        Raises:
            BundleError: the bundle does not hold it, or it is missing, changed, no ONNX model,
                or keeps data in other files.
        """
        path = self.model_path(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path} could not be read: {reason(error)}") from error
        if hashlib.sha256(data).hexdigest() != self.manifest.files[name].sha256:
            raise BundleError(
                f"{path} is not the file that the manifest describes (SHA-256 differs): "
                "copy or export the bundle again"
            )
        check_graph(data, str(path))
        return data

    def verify(self) -> None:
        """Reads and checks every graph.

        Raises:
            BundleError: as `model`.
        """
        for held in self._all():
            for name in held.manifest.files:
                held.model(name)

    def _all(self) -> list[Bundle]:
        return [self, self.in_int8()] if self.manifest.int8_files else [self]


def default_folder() -> Path:
    """Returns where the bundle that comes with dtir lies."""
    return Path(str(resources.files("dtir_sdk"))) / "models" / "default"


def check_graph(data: bytes, where: str) -> None:
    """Refuses what is no ONNX model of a single file.

    Args:
        data: the file.
        where: what to call it in an error.

    Raises:
        BundleError: it is no ONNX model, or keeps data in other files.
    """
    try:
        external = holds_external_data(data)
    except ValueError as error:
        raise BundleError(f"{where} is no ONNX model: export the bundle again") from error
    if external:
        raise BundleError(
            f"{where} keeps its data in other files (ONNX external data), which a bundle's "
            "hashes do not cover: export it as a single file"
        )
