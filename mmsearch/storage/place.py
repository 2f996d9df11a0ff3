"""Where an index lives: in a folder, or on a server at an address."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn
from urllib.parse import unquote

from mmsearch.errors import IndexNotFound, InvalidOption, NoHomeFolder
from mmsearch.home import absolute, cache_folder, home, is_possible, path_text

DEFAULT_NAME = "default"

Engine = Literal["sqlite", "postgresql", "milvus"]
"""What stores an index: `sqlite` in a folder, the others on a server."""


@dataclass(frozen=True, slots=True)
class IndexPlace:
    """Where an index lives: in a folder, or on a server.

    Attributes:
        address: The folder, or the address without a password, which may be shown, logged and
            stored.
        folder: The index folder. For an index on a server it is in `cache_folder()`, and holds
            caches only.
        engine: What stores the index.
        name: The index's name on its server: its schema in PostgreSQL, the prefix of its
            collections in Milvus.
        url: What the server's client connects to: a libpq URL, or "http(s)://host:port". It may
            hold a password: never show it.
        token: What authenticates to Milvus: a token, or "user:password". Never show it.
        given: The whole address, for `index_place`. It may hold a password: never show it.
    """

    address: str
    folder: Path
    engine: Engine = "sqlite"
    name: str = ""
    url: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    given: str = field(default="", repr=False)

    @property
    def is_folder(self) -> bool:
        """Whether the index is in a folder, not on a server."""
        return self.engine == "sqlite"

    def check_folder(self, what: str, instead: str) -> None:
        """Check that the index is in a folder, for something that needs one.

        Args:
            what: What needs it; in the message, "an index in a folder only" follows.
            instead: What the user can do instead.

        Raises:
            InvalidOption: the index is on a server.
        """
        if not self.is_folder:
            raise InvalidOption(f"{what} an index in a folder only, not that at {self}: {instead}")

    def __str__(self) -> str:
        return self.address


IndexLike = str | os.PathLike[str] | IndexPlace
"""What identifies an index: its name, folder, address or place; see `index_place`."""


def index_place(index: IndexLike | None = None) -> IndexPlace:
    """Where an index lives.

    Args:
        index: A string with "://" is the address of an index on a server. A `Path`, or any other
            string with a path separator, is a folder; any other string is a name in `home()`. None
            is `$MMSEARCH_INDEX`, else "default".

    Raises:
        NoHomeFolder: it lies in the user's home folder, and the user has none.
        InvalidOption: it is an address that cannot be used.
    """
    if isinstance(index, IndexPlace):
        return index
    if index is None or index == "":
        index = os.environ.get("MMSEARCH_INDEX") or DEFAULT_NAME
    if not isinstance(index, str):
        return place_of(Path(path_text(index)).absolute())
    if _SCHEME.match(index):
        return place_of(index)
    if index in {".", ".."} or os.path.dirname(index):
        return place_of(absolute(index))
    return place_of(home() / index)


def place_of(index: IndexLike) -> IndexPlace:
    """Where an index lives, given its folder or address, not its name.

    Raises:
        NoHomeFolder: it has an address, and the user has no folder for caches.
        InvalidOption: the address cannot be used.
    """
    if isinstance(index, IndexPlace):
        return index
    path = path_text(index)
    if isinstance(index, str) and (match := _SCHEME.match(index)):
        return _place_on_server(match[1].lower(), index[match.end() :])
    if match := re.match(r"(postgres|postgresql|milvus|milvuss):/", path):
        raise InvalidOption(f"give the address {match[1]}://… as a string: a path changes it")
    return IndexPlace(path, Path(path), given=path)


def index_not_found(place: IndexPlace) -> IndexNotFound:
    """The error for a place without an index; it names the command that makes one."""
    folder = place.folder
    if place.is_folder and folder.is_dir() and any(folder.iterdir()):
        # a folder of photos, given in place of an index
        what = f"{folder} is not an index: to search what is in it"
        return IndexNotFound(f"{what}, run `mmsearch index {shlex.quote(str(folder))}`")
    option = f" -i {shlex.quote(place.address)}"
    with suppress(NoHomeFolder, InvalidOption):
        option = "" if place.address == index_place().address else option
    what = f"there is no index at {place}"
    return IndexNotFound(f"{what}: make one with `mmsearch index FOLDER{option}`")


# ---------------------------------------------------------------------- addresses of servers

_FORMS = {
    "postgresql": "postgresql://USER@HOST/DATABASE?schema=NAME",
    "milvus": "milvus://HOST:19530/NAME",
    "milvuss": "milvuss://HOST:19530/NAME",
}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

_SECRET = re.compile("password|secret|token", re.IGNORECASE)
"""Parameters of libpq with such names are not shown."""


def _place_on_server(scheme: str, rest: str) -> IndexPlace:
    """The place that an address names.

    It is split where libpq splits it. No message quotes any of it: what is not encoded properly
    may be part of a password.
    """
    scheme = "postgresql" if scheme == "postgres" else scheme
    form = _FORMS.get(scheme)
    if form is None:
        known = ", ".join(_FORMS.values())
        raise InvalidOption(
            f"no index can be at an address {scheme}://…: give a folder, or one of {known}"
        )

    def refuse(why: str) -> NoReturn:
        raise InvalidOption(f"the address {scheme}://… cannot be used: {why}; it is like {form}")

    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    user, _, hosts = authority.rpartition("@")
    if "@" in user + path + query:
        refuse("only one @ may be in it, after the user; in a password, write %40 for @, %2F for /")
    if re.search(r"[\s\x00-\x1f\x7f\\]", rest) or not is_possible(rest):
        refuse("it holds a space, or another character that must be encoded, like %20")
    if re.search("%(?![0-9A-Fa-f]{2})", rest):
        refuse("it holds a % that encodes nothing; write %25 for it")
    ports = [found[2] for one in hosts.split(",") if (found := _HOST.fullmatch(one))]
    if len(ports) != len(hosts.split(",")) or any(not _is_port(one) for one in ports if one):
        refuse("what follows the // is a host, and after a colon its port, from 1 to 65535")
    name, colon, password = user.partition(":")
    shown = f"{scheme}://{name}{'@' if user else ''}{hosts}/{path}"
    given = f"{scheme}://{rest}"
    if scheme == "postgresql":
        return _on_postgresql(shown, given, query, refuse)
    if query:
        refuse("it takes no parameters")
    if not hosts or "," in hosts or "%" in hosts:
        refuse("it names no single host")
    if user and not colon:
        refuse("a token is not part of it: set $MILVUS_TOKEN")
    path = path.rstrip("/")
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,63}", path):
        refuse("after the host and a / comes the index's name: up to 64 letters, digits and _")
    port = "" if ports[0] else ":19530"
    url = f"{'https' if scheme == 'milvuss' else 'http'}://{hosts}{port}"
    token = f"{unquote(name)}:{unquote(password)}" if user else os.environ.get("MILVUS_TOKEN", "")
    return IndexPlace(shown, _cache_of(shown), "milvus", path, url, token, given)


def _on_postgresql(
    shown: str, given: str, query: str, refuse: Callable[[str], NoReturn]
) -> IndexPlace:
    """The place of an address in PostgreSQL; all parameters but `schema` are libpq's."""
    database = shown.partition("//")[2].partition("/")[2]
    parameters = [(unquote(one.partition("=")[0]), one) for one in query.split("&") if one]
    names = {name for name, _ in parameters}
    if "/" in database:
        refuse("after the database comes nothing but ?schema=NAME and parameters")
    by_environment = os.environ.get("PGDATABASE") or os.environ.get("PGSERVICE")
    if not database and not names & {"dbname", "service"} and not by_environment:
        refuse("it names no database")
    schema = "mmsearch"
    for name, written in parameters:
        if name == "schema":
            schema = unquote(written.partition("=")[2])
    if not schema or len(schema.encode()) > 63 or schema.startswith("pg_") or "\0" in schema:
        refuse("a schema has a name of 1 to 63 bytes that does not begin with pg_")
    public = "&".join(written for name, written in parameters if not _SECRET.search(name))
    shown += f"?{public}" if public else ""
    for_libpq = "&".join(written for name, written in parameters if name != "schema")
    url = given.partition("?")[0] + (f"?{for_libpq}" if for_libpq else "")
    return IndexPlace(shown, _cache_of(shown), "postgresql", schema, url, given=given)


_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:]*)(?::([^:]*))?")
"""A host, which libpq lets users omit or give as a folder of sockets, and a port."""


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 2**16


def _cache_of(address: str) -> Path:
    """The local folder for the caches of an index on a server."""
    from hashlib import blake2b

    return cache_folder() / "stores" / blake2b(address.encode(), digest_size=10).hexdigest()
