from __future__ import annotations

from tests.ray_fixture import cluster_database, cluster_settings, cluster_url, in_cluster, ray_cluster

__all__ = ["cluster_database", "cluster_settings", "cluster_url", "in_cluster", "ray_cluster"]
