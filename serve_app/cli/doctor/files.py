"""Checks of files: the models, the data directory and its secrets."""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from deployments.common.checksums import file_sha256
from deployments.config import EMBEDDED, WEIGHTS, AvatarGeneratorConfig, Config, FaceEmbedderConfig, model_path
from serve_app.app import faces_of_apps, generator_of_apps
from serve_app.backends.private_folder import is_open_to_others
from serve_app.backends.redis import PASSWORD_FILE
from serve_app.backends.secrets import SIGNING_KEY_FILE, TOKEN_DIGEST_FILE, TOKEN_FILE, is_data_dir, sha256
from serve_app.catalog.catalog import Catalog
from serve_app.catalog.download import missing
from serve_app.catalog.pins import UnpublishedFiles
from serve_app.cli.doctor.finding import Finding, fail, ok, warn
from serve_app.local_ray import RAY_TOKEN_FILE
from serve_app.provenance.signing import BUNDLE_FILE
from serve_app.settings import Settings

CARD = WEIGHTS / "README.md"
DIGEST = re.compile(r"^\| `([^`]+)` \| \d+ \| `([0-9a-f]{64})` \|$", re.MULTILINE)
SECRETS = (TOKEN_FILE, TOKEN_DIGEST_FILE, SIGNING_KEY_FILE, PASSWORD_FILE, BUNDLE_FILE, RAY_TOKEN_FILE)
SHOWN = 3  # entries of a long list


def check_catalog(settings: Settings) -> Finding:
    """Whether the catalogues can be read, the generator has their models, and `license_mode` leaves an app."""
    try:
        catalog = Catalog.read(settings.catalogs)
        faces_of_apps(settings)
        generator_of_apps(settings)
    except (OSError, ValueError) as error:
        return fail("catalogue", str(error).splitlines()[0], "Name catalogues that there are, and the models they use.")
    return ok("catalogue", ", ".join(catalog.apps))


def check_models(settings: Settings, *, runs_them: bool) -> list[Finding]:
    """The files that the stages load, and those that the apps need which may be used.

    `runs_them`: whether this machine loads models; elsewhere they may be missing.
    """
    paths = set(model_paths(settings))
    found = [check_card(CARD)] if any(str(path).startswith(EMBEDDED) for path in paths) else []
    folder = settings.models_dir.expanduser()
    missing_paths = [str(path) for path in map(model_path, sorted(paths)) if not _is_readable(path)]
    try:
        catalog = Catalog.read(settings.catalogs)
    except (OSError, ValueError):  # check_catalog reports it
        return found
    apps = [app_id for app_id in catalog.apps if not catalog.refusal(app_id, settings.license_mode)]
    missing_paths += [str(folder / file.path) for file in missing(catalog.files(apps), folder)]
    if not missing_paths:
        return [*found, _check_pinned(catalog, settings) or ok("models", f"{len(paths)} paths are there and readable")]
    reason = f"missing, unreadable or not whole: {_some(missing_paths)}"
    catalogues = "".join(f" --catalog {name}" for name in settings.catalogs)
    remedy = f"face-avatar models prefetch {' '.join(apps)}{catalogues} --models-dir {folder}"
    return [*found, (fail if runs_them else warn)("models", reason, f"{remedy}, on every node that runs them")]


def _check_pinned(catalog: Catalog, settings: Settings) -> Finding | None:
    """A failure for a file without a published SHA-256 that a stage will refuse; None where there is none."""
    files = catalog.files(catalog.downloads)
    try:
        for stage in stages(settings):
            UnpublishedFiles.of(files, stage, settings.models_dir).check()
    except (OSError, ValueError) as error:
        return fail("models", str(error), "A stage that loads it does not start.")
    return None


def model_paths(settings: Settings) -> Iterator[Path]:
    """All model paths of the settings that the stages load; `embedded:` ones are not resolved."""
    for stage in stages(settings):
        yield from stage.located(settings.models_dir).paths()


def stages(settings: Settings) -> tuple[Config, ...]:
    """The settings of the stages that load models, without the compile cache, which is made when it is needed."""
    generator = loaded_generator(settings).model_copy(update={"compile_cache": None})
    return loaded_faces(settings), generator, settings.background


def loaded_faces(settings: Settings) -> FaceEmbedderConfig:
    """The face settings with the models that an embedder loads; with all where the catalogues cannot tell."""
    try:
        return faces_of_apps(settings)
    except (OSError, ValueError):  # check_catalog reports it
        return settings.face


def loaded_generator(settings: Settings) -> AvatarGeneratorConfig:
    """The generator's settings with the models that the apps use; with all where the catalogues cannot tell."""
    try:
        return generator_of_apps(settings)
    except (OSError, ValueError):  # check_catalog reports it
        return settings.generator


def _is_readable(path: Path) -> bool:
    return os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK)


def check_card(card: Path) -> Finding:
    """Compares the packaged weights with the digests in their model card."""
    digests = dict(DIGEST.findall(card.read_text()))
    damaged = [name for name, digest in digests.items() if _sha256_or_empty(card.parent / name) != digest]
    if damaged or not digests:
        reason = f"not as in their card: {_some(damaged)}" if damaged else "their card names none"
        return fail("weights", reason, "pip install --force-reinstall --no-deps face-avatar")
    return ok("weights", f"{len(digests)} files of the package are intact")


def _sha256_or_empty(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError:
        return ""


def check_data_dir(folder: Path) -> Finding:
    """Whether this user can make or write the folder and, if it exists, others are kept out; changes nothing."""
    if not folder.exists():
        parent = next(parent for parent in folder.parents if parent.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return ok("data directory", f"{folder} is made at the first start")
        return fail("data directory", f"{folder} cannot be made under {parent}", "Choose another --data-dir.")
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return fail("data directory", f"{folder} is no folder that can be written", "Choose another --data-dir.")
    status = folder.stat()
    if status.st_uid != os.getuid():
        return fail("data directory", f"{folder} belongs to somebody else", "Run as its owner, or choose another one.")
    mode = stat.S_IMODE(status.st_mode)
    if is_open_to_others(folder) and not is_data_dir(folder):
        reason = f"others may enter {folder} (mode {mode:o}), which is no data directory"
        return fail("data directory", reason, f"chmod 700 {folder}, or choose another --data-dir.")
    if mode & 0o022:
        return fail("data directory", f"others may write to {folder} (mode {mode:o})", f"chmod 700 {folder}")
    if mode & 0o055:
        return warn("data directory", f"others may look into {folder} (mode {mode:o})", f"chmod 700 {folder}")
    return ok("data directory", f"{folder}, mode {mode:o}")


def check_secrets(folder: Path) -> list[Finding]:
    """The files of the data directory that only its owner may read; never shows their contents."""
    present = {name: folder / name for name in SECRETS if (folder / name).is_file()}
    found = [_check_mode(path) for path in present.values()]
    if TOKEN_FILE in present and TOKEN_DIGEST_FILE in present:
        found.append(_check_token(present))
    return [finding for finding in found if finding.state != "ok"] or [
        ok("secrets", f"{', '.join(present)}: for their owner only" if present else "made at the first start")
    ]


def _check_mode(path: Path) -> Finding:
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if not os.access(path, os.R_OK):
        return fail("secrets", f"{path} cannot be read", "Run as its owner.")
    if mode & 0o077:
        return fail(
            "secrets", f"others may read {path} (mode {mode:o})", f"chmod 600 {path}; if they did, make it anew"
        )
    if not path.read_bytes().strip():
        return fail("secrets", f"{path} is empty", f"rm {path}: the next start makes it")
    return ok("secrets", path.name)


def _check_token(present: Mapping[str, Path]) -> Finding:
    digest = present[TOKEN_DIGEST_FILE]
    if sha256(present[TOKEN_FILE].read_text().strip()) == digest.read_text().strip():
        return ok("secrets", TOKEN_FILE)
    return warn("secrets", f"{present[TOKEN_FILE]} is not the token that counts", f"rm {digest}: then it counts")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
