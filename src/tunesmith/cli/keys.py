"""`tunesmith keys`: the API keys of a server."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tunesmith.cli.output import json_option, print_json
from tunesmith.cli.serve import data_dir_option, database_option, server_extra
from tunesmith.errors import SpecError
from tunesmith.server.settings import ServerSettings, database_url

if TYPE_CHECKING:
    from tunesmith.server.store import Store


@click.group("keys")
def command() -> None:
    """Create, list and revoke API keys; a running server sees the change at once.

    \b
    Example:  tunesmith keys create alice
    """


@command.command("create", short_help="Make a key for OWNER and print it, this once.")
@click.argument("owner")
@data_dir_option
@database_option
@json_option
def create(owner: str, data_dir: str, database: str | None, as_json: bool) -> None:
    """Make a key for OWNER and print it once; keys of the same owner share files, jobs and models."""
    store = _store(data_dir, database)
    with server_extra():
        from tunesmith.server.auth import create_key

    key = create_key(store, owner)
    if as_json:
        print_json({"owner": owner, "key": key})
    else:
        click.echo(key)


@command.command("list", short_help="List the keys by their public part.")
@data_dir_option
@database_option
@json_option
def list_keys(data_dir: str, database: str | None, as_json: bool) -> None:
    """List the keys by their public part; the keys themselves are not kept."""
    keys = _store(data_dir, database).list_keys()
    if as_json:
        print_json(
            [{"id": k.id, "owner": k.owner, "created_at": k.created_at, "revoked_at": k.revoked_at} for k in keys]
        )
        return
    for key in keys:
        state = "revoked" if key.revoked_at is not None else "good"
        created = datetime.fromtimestamp(key.created_at, UTC)
        click.echo(f"{key.id}  {key.owner:<32}  {created:%Y-%m-%d %H:%M} UTC  {state}")


@command.command("revoke", short_help="Revoke the key with the public part ID.")
@click.argument("key_id", metavar="ID")
@data_dir_option
@database_option
def revoke(key_id: str, data_dir: str, database: str | None) -> None:
    """Revoke the key with the public part ID, as `list` shows it; what it made stays with its owner."""
    if not _store(data_dir, database).revoke_key(key_id):
        raise SpecError(f"key {key_id}: there is none that is still good; see `tunesmith keys list`")
    click.echo(f"revoked {key_id}")


def _store(data_dir: str, database: str | None) -> "Store":
    with server_extra():
        from tunesmith.server.store import open_store

    folder = Path(data_dir)
    return open_store(ServerSettings(data_dir=folder, database=database_url(database, folder)))
