"""Images in a server of S3 from the command line."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def s3(bucket, photos):
    """A client of S3, with the photos below ``photos/`` of the bucket."""
    import boto3

    client = boto3.client("s3")
    for path in photos:
        client.upload_file(str(path), bucket, f"photos/{path.parent.name}/{path.name}")
    return client


def key(path):
    return f"photos/{path.parent.name}/{path.name}"


def test_images_in_s3_are_built_updated_and_searched(hyperpq, s3, bucket, copy, photos):
    url, index, here = f"s3://{bucket}", ("--index", "remote"), {"cwd": copy}
    codec = next(copy.glob("*hyperpq*"))
    done = hyperpq("build", "--images", f"{url}/photos/", "--codec", codec, *index, **here)
    assert done.returncode == 0, done.stderr.decode()
    assert f"images   {len(photos)}\n".encode() in done.stdout
    assert f"query {url}/photos/".encode() in done.stdout

    s3.delete_object(Bucket=bucket, Key=key(photos[0]))
    s3.upload_file(str(photos[-1]), bucket, key(photos[1]))
    s3.upload_file(str(photos[0]), bucket, "photos/moved.jpg")
    s3.put_object(Bucket=bucket, Key="photos/torn.jpg", Body=photos[2].read_bytes()[:200])
    done = hyperpq("update", *index, **here)
    assert done.returncode == 0, done.stderr.decode()
    changes = dict(line.split(None, 1) for line in done.stdout.decode().splitlines() if line)
    assert (changes["added"], changes["removed"], changes["moved"][:2]) == ("1", "1", "1,")
    assert "photos/torn.jpg" in changes["skipped"]

    asked = f"{url}/{key(photos[5])}"
    done = hyperpq("query", asked, f"{url}/none.jpg", "-k", "1", "--json", *index, **here)
    assert json.loads(done.stdout)[0]["results"][0]["path"] == asked
    assert (done.returncode, done.stderr.decode()) == (
        1,
        f"hyperpq: {url}/none.jpg: no such file\n",
    )
    done = hyperpq("query", asked, "-k", "3", "--html", "r.html", *index, **here)
    assert (copy / "r.html").read_text().count("data:image/webp") == 4, done.stderr
    assert f"{url}/photos\n".encode() in hyperpq("info", *index, **here).stdout
    done = hyperpq("remove", f"{url}/photos/moved.jpg", *index, **here)
    assert b"adds 1 again from s3:" in done.stdout


def test_lists_name_images_in_s3(hyperpq, s3, bucket, copy, photos):
    names = [f"s3://{bucket}/{key(path)}" for path in photos]
    lines = "\n".join([*names, f"s3://{bucket}/none.jpg"]).encode()
    codec = next(copy.glob("*hyperpq*"))
    build = "build", "--images-from", "-", "--codec", codec, "--index", "listed"
    done = hyperpq(*build, stdin=lines, cwd=copy)
    assert done.returncode == 0, done.stderr.decode()
    assert b"none.jpg: no such object" in done.stdout
    assert f"images   {len(photos)}\n".encode() in done.stdout


def test_what_cannot_be_read_is_one_line_that_names_the_url(hyperpq, s3, bucket, copy):
    def fails(*args, **env):
        done = hyperpq(*args, cwd=copy, env=env)
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr.decode()
        return done.stderr.decode()

    new = "--index", "new"
    assert "s3://no-such-bucket/p does not exist" in fails("build", "s3://no-such-bucket/p", *new)
    none = f"s3://{bucket}/none"
    assert f"{none} does not exist" in fails("build", none, *new)
    # Nothing listens there, and hyperpq waits for as long as AWS's library is told to.
    refused = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    done = fails("build", f"s3://{bucket}/photos", *new, **refused)
    assert f"s3://{bucket}/photos cannot be read (Could not connect" in done
    assert not (copy / "new").exists()
