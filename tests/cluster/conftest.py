from __future__ import annotations

import pytest

from tests.cluster.serving_files import files
from tests.ray_fixture import cluster_database, cluster_settings, cluster_url, in_cluster, ray_cluster

__all__ = ["cluster_database", "cluster_settings", "cluster_url", "files", "in_cluster", "ray_cluster"]


@pytest.fixture(autouse=True)
def no_handles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handles that a test has got are not the next one's."""
    monkeypatch.setattr("cluster.conversation._handles", {})
