"""What lies in a bucket of a real S3 server."""

from tests.servers import S3Server


def objects(server: S3Server, url: str) -> dict[str, bytes]:
    """Everything under a prefix."""
    name, _, prefix = url.removeprefix("s3://").partition("/")
    client = server.client()
    listed = client.list_objects_v2(Bucket=name, Prefix=prefix).get("Contents", [])
    return {entry["Key"]: client.get_object(Bucket=name, Key=entry["Key"])["Body"].read() for entry in listed}
