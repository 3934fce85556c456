"""Requests that are made from the OpenAPI document, right and wrong ones: nothing ends in a 500."""

from __future__ import annotations

import os
import time

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.slow

OF_IMAGES = [
    ("GET", "/images/{id}"),
    ("GET", "/thumbnails/{id}"),
    ("GET", "/explore/codewords/{m}/{codeword}"),
]
# What takes nothing cannot be given anything wrong.
WITHOUT_VALUES = [("GET", "/index"), ("GET", "/metrics"), ("GET", "/readyz")]
CASES = [
    *(
        (kind, *operation, mode)
        for kind, operations in (
            ("images", [("POST", "/search"), *OF_IMAGES]),
            ("vectors", [("POST", "/search")]),
        )
        for operation in operations
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    ),
    *(("images", *operation, GenerationMode.POSITIVE) for operation in WITHOUT_VALUES),
]
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def schemas(photos, vectors, tmp_path_factory):
    from server_tools import serving

    with serving(photos / "index") as images, serving(vectors[0]) as plain:
        secret = os.urandom(16).hex()
        (photos / "secret.txt").write_text(secret)
        with images.http() as http:
            # Groups are made when they are first asked for.
            while (status := http.get("/explore/codewords").status_code) == 503:
                time.sleep(0.05)
            assert status == 200
        yield {
            name: (schemathesis.openapi.from_url(f"{running.url}/openapi.json"), running, secret)
            for name, running in (("images", images), ("vectors", plain))
        }
        for running in (images, plain):
            assert running.stop() == (0, "")


@pytest.mark.parametrize(("kind", "method", "path", "mode"), CASES)
def test_generated_requests(schemas, kind, method, path, mode):
    schema, _, secret = schemas[kind]
    operation = schema[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case):
        answer = case.call(timeout=30)
        checks = [*CHECKS]
        if path == "/readyz":
            assert answer.status_code in (200, 503)
            checks.remove(schemathesis.checks.not_a_server_error)
        if mode is GenerationMode.NEGATIVE and path != "/search":
            checks.append(negative_data_rejection)
        case.validate_response(answer, checks=checks)
        assert b"root:" not in answer.content
        assert secret.encode() not in answer.content

    check()


@given(path=st.text(max_size=60), query=st.text(max_size=30))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_path(schemas, path, query):
    """What is no route is told so, whatever it is."""
    from urllib.parse import quote

    _, running, _ = schemas["images"]
    with running.http() as http:
        address = f"/{quote(path, errors='replace')}?{quote(query, errors='replace')}"
        answer = http.get(address)
    assert answer.status_code in (200, 307, 404, 405, 422)
    assert b"root:" not in answer.content


@given(body=st.binary(max_size=400), fields=st.dictionaries(st.text(), st.text(), max_size=4))
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_upload(schemas, body, fields):
    _, running, _ = schemas["images"]
    with running.http() as http:
        fields = {k.encode("utf-8", "replace").decode(): v for k, v in fields.items()}
        values = {k: v.encode("utf-8", "replace").decode() for k, v in fields.items()}
        answer = http.post("/search", files={"image": ("a", body)}, data=values)
        assert answer.status_code in (200, 400, 422), answer.text
        answer = http.post(
            "/search", content=body, headers={"content-type": "multipart/form-data; boundary=a"}
        )
        assert answer.status_code in (400, 422), answer.text
