"""Swift's S3 API with one replica and without memcached, all in one process, for tests of real S3 requests.

Run as `python swift_server.py FOLDER`; the folder needs a file system with user xattrs. The first line it prints is the
port of the S3 API on loopback. The access key is `USER`, its secret `KEY`; listings come in pages of `LISTING` keys.
It ends with the process that started it.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

USER = "test:tester"
KEY = "testing-secret"
LISTING = 10

_BACKENDS = ("account", "container", "object")
_HASH = "[swift-hash]\nswift_hash_path_suffix = tests\n"
_DEFAULTS = """\
[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
log_statsd_host =
log_address = /nonexistent
log_level = ERROR
"""
_BACKEND = """\
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
recon_cache_path = {folder}
container_update_timeout = 10
"""
_PROXY = f"""\
[pipeline:main]
pipeline = catch_errors s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:s3api]
use = egg:swift#s3api
max_bucket_listing = {LISTING}
[filter:tempauth]
use = egg:swift#tempauth
user_{USER.replace(":", "_")} = {KEY} .admin
[filter:slo]
use = egg:swift#slo
"""


def listener() -> socket.socket:
    """A free port of loopback, already listening."""
    opened = socket.create_server(("127.0.0.1", 0), backlog=256)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def main(folder: Path) -> None:
    """Serve until killed, or orphaned."""
    parent = os.getppid()
    import eventlet
    from eventlet import wsgi
    from swift.common import utils
    from swift.common.ring import RingBuilder
    from swift.common.wsgi import SwiftHttpProtocol, loadapp

    utils.eventlet_monkey_patch()
    sockets = {kind: listener() for kind in (*_BACKENDS, "proxy")}
    (folder / "devices" / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text(_HASH)
    defaults = _DEFAULTS.format(folder=folder)
    for kind in _BACKENDS:
        ring = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
        address = {"ip": "127.0.0.1", "port": sockets[kind].getsockname()[1]}
        ring.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "device": "disk", **address})
        ring.rebalance()
        ring.get_ring().save(str(folder / f"{kind}.ring.gz"))
        (folder / f"{kind}.conf").write_text(defaults + _BACKEND.format(kind=kind, folder=folder))
    (folder / "proxy.conf").write_text(defaults + _PROXY)
    utils.set_swift_dir(str(folder))
    for kind, opened in sockets.items():
        eventlet.spawn(
            wsgi.server,
            eventlet.greenio.GreenSocket(opened),
            loadapp(str(folder / f"{kind}.conf")),
            utils.NullLogger(),
            protocol=SwiftHttpProtocol,
            capitalize_response_headers=False,
        )
    print(sockets["proxy"].getsockname()[1], flush=True)
    while os.getppid() == parent:
        eventlet.sleep(1)


if __name__ == "__main__":
    os.umask(0o077)
    main(Path(sys.argv[1]).absolute())
