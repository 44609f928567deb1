"""`python -m images`: the steps from weights on a hub to an image in a registry."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from checkpoints.catalogue import DEMO, MODEL_NAMES, CatalogueModel, get_model
from checkpoints.errors import ModelError
from images.compose import compose_image
from images.errors import ImageError
from images.io.parallel import CONNECTIONS
from images.oci.reference import Reference, parse_reference
from images.oci.referrers import get_artifact
from images.oci.store import get_image_manifest
from images.runtime.build import build_runtime
from images.sbom import RUNTIME_SBOM, SBOM_TYPE, WEIGHTS_SBOM
from images.verify import verify_image
from images.weights.directory_source import DirectorySource
from images.weights.hub_source import HubSource
from images.weights.lock import LOCK_PATH, LockEntry, compare_with_source, lock_model, read_entry, write_entry
from images.weights.push import push_weights
from images.weights.source import Source

REFERENCE_HELP = "oci:DIR[:TAG] or REGISTRY/REPOSITORY[:TAG]; the default tag is this version"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit status; stdout gets only the names of images and files."""
    options = _parser().parse_args(arguments)
    try:
        options.action(options)
    except (ImageError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; run this again to resume: complete layers are not sent again", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m images", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("lock", help="record the files and layers of models from the hub or a directory")
    verb.add_argument("model", nargs="+", metavar="MODEL", help=", ".join(MODEL_NAMES))
    verb.add_argument("--check", action="store_true", help="write nothing; fail if the hub's list of files differs")
    verb.add_argument("--missing", action="store_true", help="only models that have no entry yet")
    _add_source_arguments(verb)
    verb.set_defaults(action=_lock)

    verb = verbs.add_parser("weights", help="stream a model's weights into a registry, and tag them")
    verb.add_argument("model", metavar="MODEL")
    verb.add_argument("destination", metavar="DESTINATION", help=REFERENCE_HELP)
    _add_source_arguments(verb)
    _add_plain_http_argument(verb)
    verb.set_defaults(action=_weights)

    verb = verbs.add_parser("runtime", help="build the image of the server, without weights")
    verb.add_argument("destination", metavar="DESTINATION", help=REFERENCE_HELP)
    verb.add_argument("--base", help="an image, or the archive of a root file system, to replace the Dockerfile's base")
    _add_plain_http_argument(verb)
    verb.set_defaults(action=_runtime)

    verb = verbs.add_parser("compose", help="combine weights and a runtime into one image, by manifest")
    verb.add_argument("model", metavar="MODEL")
    verb.add_argument("destination", metavar="DESTINATION", help=f"the repository with the weights: {REFERENCE_HELP}")
    verb.add_argument("--runtime", required=True, metavar="IMAGE", help="the image of the server")
    _add_lock_argument(verb)
    _add_plain_http_argument(verb)
    verb.set_defaults(action=_compose)

    verb = verbs.add_parser("name", help="print the last component of the name of a model's image")
    verb.add_argument("model", metavar="MODEL")
    verb.set_defaults(action=lambda options: print(get_model(options.model).image))

    verb = verbs.add_parser("bom", help="write the SBOMs that are attached to an image into a directory")
    verb.add_argument("image", metavar="IMAGE", help=REFERENCE_HELP)
    verb.add_argument("directory", metavar="DIRECTORY", type=Path)
    _add_plain_http_argument(verb)
    verb.set_defaults(action=_bom)

    verb = verbs.add_parser("verify", help="verify a published image against the lock file, without pulling it")
    verb.add_argument("image", metavar="IMAGE", help=REFERENCE_HELP)
    _add_lock_argument(verb)
    _add_plain_http_argument(verb)
    verb.set_defaults(action=_verify)
    return parser


def _add_source_arguments(verb: argparse.ArgumentParser) -> None:
    _add_lock_argument(verb)
    verb.add_argument("--folder", type=Path, metavar="DIR", help="read the files from this directory, not the hub")
    verb.add_argument(
        "--connections",
        type=int,
        choices=range(1, 9),
        default=CONNECTIONS,
        help="number of files transferred at once (default: %(default)s)",
    )


def _add_lock_argument(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--lock", type=Path, default=LOCK_PATH, metavar="FILE", help="default: %(default)s")


def _add_plain_http_argument(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--plain-http", action="store_true", help="the registry has no TLS; localhost needs no flag")


def _open_source(model: CatalogueModel, directory: Path | None) -> Source:
    if directory:
        return DirectorySource(directory)
    if model.name == DEMO:
        raise ImageError(
            "demo is on no hub: make it with `python -m checkpoints demo`, and pass its directory as --folder"
        )
    return HubSource(model)


def _require_entry(model: CatalogueModel, path: Path) -> LockEntry:
    entry = read_entry(path, model)
    if entry is None:
        raise ImageError(
            f"{path} has no entry for {model.name} at {model.revision or 'any revision'}: run `scripts/lock`"
        )
    return entry


def _lock(options: argparse.Namespace) -> None:
    for name in options.model:
        model = get_model(name)
        if options.missing and read_entry(options.lock, model):
            continue
        source = _open_source(model, options.folder)
        if options.check:
            differences = compare_with_source(_require_entry(model, options.lock), source)
            if differences:
                raise ImageError(
                    f"{name} in {options.lock} differs from {source.location}: {'; '.join(differences)}. "
                    f"Run `scripts/lock {name}` to accept the change"
                )
            print(f"{name}: {options.lock} matches {source.location}", file=sys.stderr)
        else:
            write_entry(options.lock, lock_model(model, source, options.connections))
            print(f"{name}: locked in {options.lock}", file=sys.stderr)


def _weights(options: argparse.Namespace) -> None:
    model = get_model(options.model)
    entry = _require_entry(model, options.lock)
    target = parse_reference(options.destination, plain_http=options.plain_http)
    push_weights(entry, _open_source(model, options.folder), target.store, options.connections)
    _report(f"{model.name}: all {len(entry.layers)} layers are stored", target)
    print(f"{target.name}:{entry.tag}")


def _runtime(options: argparse.Namespace) -> None:
    target = parse_reference(options.destination, plain_http=options.plain_http)
    build_runtime(target, options.base)
    print(f"{target}@{get_image_manifest(target.store, target.tag).digest}")


def _compose(options: argparse.Namespace) -> None:
    target = parse_reference(options.destination, plain_http=options.plain_http)
    runtime = parse_reference(options.runtime, plain_http=options.plain_http)
    manifest = compose_image(_require_entry(get_model(options.model), options.lock), runtime, target)
    verify_image(target, options.lock)
    _report(f"{options.model}: composed and verified", target)
    print(f"{target}@{manifest.digest}")


def _bom(options: argparse.Namespace) -> None:
    image = parse_reference(options.image, plain_http=options.plain_http)
    digest = get_image_manifest(image.store, image.tag).digest
    documents = {title: get_artifact(image.store, digest, SBOM_TYPE, title) for title in (RUNTIME_SBOM, WEIGHTS_SBOM)}
    if not any(documents.values()):
        raise ImageError(f"{image} has no SBOM: publish it, or copy it together with its referrers")
    options.directory.mkdir(parents=True, exist_ok=True)
    for title, document in documents.items():
        if document is not None:
            path = options.directory / title
            path.write_bytes(document)
            print(path)


def _verify(options: argparse.Namespace) -> None:
    image = parse_reference(options.image, plain_http=options.plain_http)
    name, manifest = verify_image(image, options.lock)
    print(f"{image} matches {name} in {options.lock}", file=sys.stderr)
    print(f"{image.name}@{manifest.digest}")


def _report(text: str, target: Reference) -> None:
    print(f"{text} in {target.store.location}; {target.store.bytes_sent:,} bytes sent", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
