"""How a Milvus server refuses TLS, tokens and rights, by a server that does nothing else."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mmsearch.errors import IndexNotFound, StorageFailed
from mmsearch.storage.milvus import open_store
from mmsearch.storage.place import index_place

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else its server writes to stderr
grpc = pytest.importorskip("grpc")
pytest.importorskip("pymilvus")

TOKEN = "ann:hunter2"


@contextmanager
def listening(certificate: tuple[bytes, bytes] | None = None) -> Iterator[tuple[int, list[str]]]:
    """(port, tokens received) of a server that accepts one token, and has no collection.

    Args:
        certificate: The server's certificate and its key; None: it speaks no TLS.
    """
    from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc

    received: list[str] = []

    class Servicer(milvus_pb2_grpc.MilvusServiceServicer):
        def Connect(self, request: Any, context: Any) -> Any:  # noqa: N802 - as Milvus calls it
            self._check(context)
            return milvus_pb2.ConnectResponse(status=common_pb2.Status())

        def GetVersion(self, request: Any, context: Any) -> Any:  # noqa: N802
            self._check(context)
            return milvus_pb2.GetVersionResponse(status=common_pb2.Status(), version="v2.6.0")

        def DescribeCollection(self, request: Any, context: Any) -> Any:  # noqa: N802
            if received[-1] == "guest:guest":
                what = "PrivilegeDescribeCollection: permission deny to guest"
                context.abort(grpc.StatusCode.PERMISSION_DENIED, what)
            gone = common_pb2.Status(error_code=common_pb2.CollectionNotExists, code=100)
            return milvus_pb2.DescribeCollectionResponse(status=gone)

        def _check(self, context: Any) -> None:
            sent = dict(context.invocation_metadata()).get("authorization", "")
            received.append(base64.b64decode(sent).decode())
            if received[-1] not in (TOKEN, "guest:guest"):
                why = f"auth check failure, please check {received[-1]} is correct"
                context.abort(grpc.StatusCode.UNAUTHENTICATED, why)

    server = grpc.server(ThreadPoolExecutor(4))
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(Servicer(), server)
    if certificate is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        credentials = grpc.ssl_server_credentials([certificate[::-1]])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port, received
    finally:
        server.stop(None).wait()


@pytest.fixture(scope="module")
def certificate() -> tuple[bytes, bytes]:
    """A self-signed certificate of 127.0.0.1, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mmsearch test")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(
        name,
        name,
        key.public_key(),
        x509.random_serial_number(),
        now - timedelta(hours=1),
        now + timedelta(days=1),
    )
    alone = x509.BasicConstraints(ca=True, path_length=0)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = (
        made.add_extension(alone, critical=True)
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return signed.public_bytes(pem), private


def refusal(address: str, tmp_path: Path, token: str = TOKEN) -> str:
    """The error that an index cannot be opened with."""
    place = replace(index_place(address), token=token, folder=tmp_path / "cache")
    with pytest.raises(StorageFailed) as caught:
        open_store(place, create=True)
    return str(caught.value)


def test_the_token_is_sent_and_the_right_one_is_accepted(tmp_path: Path):
    with listening() as (port, received):
        place = replace(index_place(f"milvus://{TOKEN}@127.0.0.1:{port}/photos"), folder=tmp_path)
        with pytest.raises(IndexNotFound):
            open_store(place, create=False)
        assert set(received) == {TOKEN}


@pytest.mark.parametrize("token", ["ann:wrong", "apikey", ""])
def test_a_wrong_token_is_refused_and_not_shown(token: str, tmp_path: Path):
    with listening() as (port, _):
        said = refusal(f"milvus://127.0.0.1:{port}/photos", tmp_path, token)
    assert "refuses the token: set $MILVUS_TOKEN to one that is right" in said
    assert not token or token not in said
    assert "wrong" not in said


def test_rights_that_a_user_lacks_are_told_from_a_wrong_token(tmp_path: Path):
    with listening() as (port, _):
        said = refusal(f"milvus://127.0.0.1:{port}/photos", tmp_path, "guest:guest")
    assert "may not be used like this with this token" in said


def test_a_certificate_that_is_not_trusted_is_refused_before_the_token_is_sent(
    certificate: tuple[bytes, bytes], tmp_path: Path
):
    with listening(certificate) as (port, received):
        said = refusal(f"milvuss://127.0.0.1:{port}/photos", tmp_path)
    assert "certificate of its server is not trusted here" in said
    assert "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" in said
    assert received == []


def test_a_certificate_is_trusted_by_the_file_that_the_error_names(
    certificate: tuple[bytes, bytes], tmp_path: Path
):
    (tmp_path / "roots.pem").write_bytes(certificate[0])
    roots = {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(tmp_path / "roots.pem")}  # read once a process
    with listening(certificate) as (port, received):
        command = [*(sys.executable, "-m", "mmsearch", "query", "a dog")]
        command += ["-i", f"milvuss://127.0.0.1:{port}/photos"]
        env = {**os.environ, **roots, "MILVUS_TOKEN": TOKEN, "MMSEARCH_CACHE": str(tmp_path)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, set(received)) == (3, {TOKEN}), done.stderr
    assert "there is no index at" in done.stderr


def test_a_server_without_tls_is_told_from_one_that_is_down(tmp_path: Path):
    with listening() as (port, _):
        said = refusal(f"milvuss://127.0.0.1:{port}/photos", tmp_path)
    assert "speaks no TLS: give the address as milvus://" in said


def test_a_server_that_speaks_tls_only_is_asked_for_with_tls(
    certificate: tuple[bytes, bytes], tmp_path: Path
):
    with listening(certificate) as (port, received):
        said = refusal(f"milvus://127.0.0.1:{port}/photos", tmp_path)
    assert "(with TLS: milvuss://)" in said
    assert received == []
