"""`python -m images`: the verbs of the pipeline from weights on a hub to an image in a registry."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from images import sbom as bom
from images import verify
from images.catalogue import DEMO, Model, find
from images.catalogue import read as read_catalogue
from images.compose import compose
from images.errors import ImageError
from images.oci import reference
from images.oci.referrers import attached
from images.oci.store import require
from images.runtime import build as runtime
from images.weights import lock
from images.weights import push as weights
from images.weights.folder import Folder
from images.weights.hub import Hub
from images.weights.source import Source

NAME = "oci:FOLDER[:TAG] or REGISTRY/REPOSITORY[:TAG]; the default tag is this version"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a verb says, and return the exit status; an image's name is all that goes to stdout."""
    options = _parser().parse_args(arguments)
    try:
        options.action(options)
    except ImageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; run this again, and what is complete is not sent again", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m images", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("lock", help="write which files and layers a model has, from the hub or a folder")
    verb.add_argument("model", nargs="+", metavar="MODEL", help=", ".join([DEMO, *read_catalogue()]))
    verb.add_argument("--check", action="store_true", help="write nothing; fail where the hub's list is another")
    verb.add_argument("--missing", action="store_true", help="only models that have no entry yet")
    _add_source(verb)
    verb.set_defaults(action=_lock)

    verb = verbs.add_parser("weights", help="stream a model's weights into a registry, and tag them")
    verb.add_argument("model", metavar="MODEL")
    verb.add_argument("destination", metavar="DESTINATION", help=NAME)
    _add_source(verb)
    _add_plain_http(verb)
    verb.set_defaults(action=_weights)

    verb = verbs.add_parser("runtime", help="build the image of the server, without weights")
    verb.add_argument("destination", metavar="DESTINATION", help=NAME)
    verb.add_argument("--base", help="an image, or an archive of a root file system, in place of the Dockerfile's base")
    _add_plain_http(verb)
    verb.set_defaults(action=_runtime)

    verb = verbs.add_parser("compose", help="make one image of weights and a runtime, by manifest")
    verb.add_argument("model", metavar="MODEL")
    verb.add_argument("destination", metavar="DESTINATION", help=f"where the weights are: {NAME}")
    verb.add_argument("--runtime", required=True, metavar="IMAGE", help="the image of the server")
    _add_lock(verb)
    _add_plain_http(verb)
    verb.set_defaults(action=_compose)

    verb = verbs.add_parser("name", help="print the last part of the name that a model's image has")
    verb.add_argument("model", metavar="MODEL")
    verb.set_defaults(action=lambda options: print(find(options.model).image))

    verb = verbs.add_parser("bom", help="write the bills of materials that are attached to an image into a folder")
    verb.add_argument("image", metavar="IMAGE", help=NAME)
    verb.add_argument("folder", metavar="FOLDER", type=Path)
    _add_plain_http(verb)
    verb.set_defaults(action=_bom)

    verb = verbs.add_parser("verify", help="hold a published image against the lock, without pulling it")
    verb.add_argument("image", metavar="IMAGE", help=NAME)
    _add_lock(verb)
    _add_plain_http(verb)
    verb.set_defaults(action=_verify)
    return parser


def _add_source(verb: argparse.ArgumentParser) -> None:
    _add_lock(verb)
    verb.add_argument("--folder", type=Path, help="read the files from this folder instead of the hub")
    verb.add_argument(
        "--connections",
        type=int,
        choices=range(1, 9),
        default=weights.CONNECTIONS,
        help="files at once (%(default)s)",
    )


def _add_lock(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--lock", type=Path, default=lock.PATH, metavar="FILE", help="default: %(default)s")


def _add_plain_http(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--plain-http", action="store_true", help="the registry has no TLS; localhost needs no flag")


def _source(model: Model, folder: Path | None) -> Source:
    if folder:
        return Folder(folder)
    if model.name == DEMO:
        raise ImageError(
            "demo is on no hub: make it with `python -m checkpoints demo`, and pass its folder as --folder"
        )
    return Hub(model)


def _entry(model: Model, path: Path) -> lock.Entry:
    entry = lock.find(path, model)
    if entry is None:
        raise ImageError(
            f"{path} has no entry for {model.name} at {model.revision or 'any revision'}: run `scripts/lock`"
        )
    return entry


def _lock(options: argparse.Namespace) -> None:
    for name in options.model:
        model = find(name)
        if options.missing and lock.find(options.lock, model):
            continue
        source = _source(model, options.folder)
        if options.check:
            differences = lock.differences(_entry(model, options.lock), source)
            if differences:
                raise ImageError(f"{name} in {options.lock} is not what {source.place} has: {'; '.join(differences)}")
            print(f"{name}: {options.lock} says what {source.place} does", file=sys.stderr)
        else:
            lock.write(options.lock, lock.make(model, source, options.connections))
            print(f"{name}: locked in {options.lock}", file=sys.stderr)


def _weights(options: argparse.Namespace) -> None:
    model = find(options.model)
    entry = _entry(model, options.lock)
    target = reference.parse(options.destination, plain_http=options.plain_http)
    weights.push(entry, _source(model, options.folder), target.store, options.connections)
    _report(f"{model.name}: all {len(entry.layers)} layers are there", target, target.store.sent)
    print(f"{target.name}:{entry.tag}")


def _runtime(options: argparse.Namespace) -> None:
    target = reference.parse(options.destination, plain_http=options.plain_http)
    runtime.build(target, options.base)
    print(f"{target}@{require(target.store, target.tag).digest}")


def _compose(options: argparse.Namespace) -> None:
    target = reference.parse(options.destination, plain_http=options.plain_http)
    source = reference.parse(options.runtime, plain_http=options.plain_http)
    manifest = compose(_entry(find(options.model), options.lock), source, target)
    verify.verify(target, options.lock)
    _report(f"{options.model}: composed and verified", target, target.store.sent)
    print(f"{target}@{manifest.digest}")


def _bom(options: argparse.Namespace) -> None:
    image = reference.parse(options.image, plain_http=options.plain_http)
    digest = require(image.store, image.tag).digest
    documents = {title: attached(image.store, digest, bom.MEDIA_TYPE, title) for title in (bom.RUNTIME, bom.WEIGHTS)}
    if not any(documents.values()):
        raise ImageError(f"{image} has no bill of materials: publish it, or mirror it with what is attached to it")
    options.folder.mkdir(parents=True, exist_ok=True)
    for title, document in documents.items():
        if document is not None:
            (options.folder / title).write_bytes(document)
            print(options.folder / title)


def _verify(options: argparse.Namespace) -> None:
    image = reference.parse(options.image, plain_http=options.plain_http)
    name, manifest = verify.verify(image, options.lock)
    print(f"{image} is {name} as locked in {options.lock}", file=sys.stderr)
    print(f"{image.name}@{manifest.digest}")


def _report(text: str, target: reference.Reference, sent: int) -> None:
    print(f"{text} in {target.store.place}; {sent:,} bytes sent", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
