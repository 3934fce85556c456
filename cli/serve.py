"""`hyperpq serve`: answer searches by HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from hyperpq.cli import options, output, ray_cluster, streams
from hyperpq.cli.looks import open_in_browser
from hyperpq.errors import InvalidInputError

_TOKEN = "HYPERPQ_TOKEN"


@click.command("serve")
@options.index_option
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Any but one of this machine alone needs a token.",
)
@click.option(
    "--port",
    type=options.Whole(min=0, max=65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 for a free one, which is printed.",
)
@click.option(
    "--token",
    type=options.TEXT,
    help="Token that requests have to name (Authorization: Bearer TOKEN). Other users of this "
    f"machine can read it in the list of processes: the variable {_TOKEN} and --token-file do not "
    "show it.",
)
@click.option(
    "--token-file", type=options.PATH, metavar="FILE", help="File whose first line is the token."
)
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Name by which a reverse proxy passes requests on; the option can be repeated. By default "
    "a server on this machine alone answers to localhost and its addresses.",
)
@click.option(
    "--follow-links",
    is_flag=True,
    help="Serve images that the index has found by links out of its folders, if their files are "
    "those that were indexed.",
)
@click.option(
    "--remote-images",
    is_flag=True,
    help="Serve images in object storage, such as s3://, that are below folders of the index. They "
    "are read with the credentials of the server, so give it for an index that you trust.",
)
@click.option(
    "--max-k",
    type=options.Whole(min=1),
    default=1000,
    show_default=True,
    help="Largest number of results.",
)
@click.option(
    "--max-upload",
    type=options.Whole(min=1),
    default=20,
    show_default=True,
    metavar="MIB",
    help="Largest upload.",
)
@click.option(
    "--max-megapixels",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Largest image that is decoded.",
)
@click.option(
    "--queue",
    type=options.Whole(min=1),
    default=256,
    show_default=True,
    help="Searches that wait for their turn; more are refused with the status 503.",
)
@click.option(
    "--recall",
    type=float,
    metavar="R",
    help="Share R of the exact results that searches find that ask for none, such as 0.95, in an "
    "index that has cells (hyperpq build --cells). [default: all]",
)
@ray_cluster.scan_option
@ray_cluster.replicas_option
@click.option("--open", "open_page", is_flag=True, help="Open the page of searches in a browser.")
@options.backbone_option
@options.device_option
@options.quiet_option
def command(
    index_path: Path,
    host: str,
    port: int,
    token: str | None,
    token_file: Path | None,
    allowed_hosts: tuple[str, ...],
    follow_links: bool,
    recall: float | None,
    remote_images: bool,
    address: str | None,
    replicas: int,
    open_page: bool,
    quiet: bool,
    device: str,
    backbone: str | None,
    **limits: Any,
) -> None:
    """Answer searches in an index by HTTP, until Ctrl-C or SIGTERM.

    The page / searches in a browser: by images that are dropped, pasted or chosen, and on from any
    result. POST /search takes images, an id or a vector; GET /images/ID and /thumbnails/ID give
    images of the index. The page /docs describes all. Changes of the index show without a restart.
    """
    from hyperpq.utils.imports import need

    for module in ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client"):
        need(module, "serve", "servers")
    from hyperpq.server.runner import serve
    from hyperpq.server.served_index import ServedIndex
    from hyperpq.server.settings import Limits, ServerSettings

    output.show_warnings(quiet)
    settings = ServerSettings(
        host,
        port,
        _token(token, token_file),
        allowed_hosts,
        follow_links,
        remote_images,
        Limits(
            upload_bytes=limits["max_upload"] << 20,
            megapixels=limits["max_megapixels"],
            k=limits["max_k"],
            queue=limits["queue"],
        ),
    )
    with ray_cluster.scanner_at(address, replicas) as scanner:
        served = ServedIndex(
            index_path,
            device=device,
            backbone=backbone,
            max_megapixels=settings.limits.megapixels,
            scanner=scanner,
            recall=recall,
        )

        def say(url: str) -> None:
            if not (quiet or streams.stdout_is_missing()):
                output.emit(
                    f"{index_path} with {served.current.index.ntotal:,} {served.kind} at {url}\n"
                )
            if open_page:
                open_in_browser(url)

        serve(served, settings, say)


def _token(given: str | None, file: Path | None) -> str | None:
    """The token that an option, a file or the variable names."""
    if given is not None and file is not None:
        raise options.both_given("--token", "--token-file")
    if file is None:
        return os.environ.get(_TOKEN) if given is None else given
    try:
        lines = file.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"{file} cannot be read ({getattr(error, 'strerror', None) or 'no ASCII'}); expected a "
            "file with a token."
        ) from None
    return lines[0].strip() if lines else ""
