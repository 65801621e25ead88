from __future__ import annotations

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.ray_environment import environment
from core.settings import Settings


def test_the_token_is_private_kept_and_never_half_written(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    token = Path(environment(settings)["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    text = token.read_text()
    assert len(text) == 64
    assert Path(environment(settings)["RAY_AUTH_TOKEN_PATH"]).read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == [token.name]


def test_many_at_once_leave_one_whole_token(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with ThreadPoolExecutor(8) as threads:
        paths = {found["RAY_AUTH_TOKEN_PATH"] for found in threads.map(lambda _: environment(settings), range(40))}
    (path,) = paths
    assert len(Path(path).read_text()) == 64
    assert [found.name for found in tmp_path.iterdir()] == [Path(path).name]


def test_everything_is_text_and_authentication_is_on(tmp_path: Path) -> None:
    found = environment(Settings(data_dir=tmp_path))
    assert all(isinstance(value, str) for value in found.values())
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS"] == "1"


def test_it_is_known_before_ray_is_imported() -> None:
    code = "import sys, cluster.ray_environment; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
