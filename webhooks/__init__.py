"""Webhooks: an account's secret, the notices of its jobs' ends, and how they are delivered."""
