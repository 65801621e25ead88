"""What must be true of money, jobs and queue between any two transactions, whatever happened before."""

from __future__ import annotations

from core.database import Database

_NONE_OF = {
    "the ledger does not sum to zero": "SELECT sum(amount) FROM entry HAVING coalesce(sum(amount), 0) <> 0",
    "a movement does not sum to zero": "SELECT movement_id FROM entry GROUP BY 1 HAVING sum(amount) <> 0",
    "a wallet drifts": "SELECT account_id FROM drift",
    "a chain of movements is broken": "SELECT account_id FROM wallet WHERE chain_break(account_id) IS NOT NULL",
    "an ended job with a webhook has no delivery, or another has one": """
        SELECT job.id FROM job LEFT JOIN delivery ON delivery.job_id = job.id
        GROUP BY job.id HAVING count(delivery) <> (job.webhook_url IS NOT NULL AND job.finished_at IS NOT NULL)::int""",
    "money or a place in the queue belongs to no account": """
        SELECT account_id FROM (SELECT account_id FROM hold UNION SELECT account_id FROM movement
          UNION SELECT account_id FROM entry UNION SELECT account_id FROM flow
          UNION SELECT account_id FROM delivery) AS owned
        WHERE account_id IS NOT NULL AND NOT EXISTS (SELECT FROM account WHERE account.id = account_id)""",
    "a queue row is in no pool": "SELECT job_id FROM queue WHERE NOT EXISTS (SELECT FROM pool WHERE name = queue.pool)",
    "a hold does not fit its job's state": """
        SELECT job.id, job.state, hold.state FROM job LEFT JOIN hold ON hold.id = job.id
        WHERE hold.amount <> job.amount OR hold.state IS DISTINCT FROM
          CASE WHEN job.state IN ('queued', 'running') THEN 'held' WHEN job.state = 'succeeded' THEN 'captured'
          ELSE 'released' END""",
    "a queue row does not fit its job's state": """
        SELECT coalesce(job.id, queue.job_id), job.state, queue.state
        FROM job FULL JOIN queue ON queue.job_id = job.id
        WHERE CASE queue.state WHEN 'leased' THEN 'running' WHEN 'ready' THEN 'queued' WHEN 'parked' THEN 'queued'
          WHEN 'quarantined' THEN 'queued' ELSE 'ended' END
          IS DISTINCT FROM CASE WHEN job.state IN ('queued', 'running') THEN job.state ELSE 'ended' END
          OR queue.pool <> job.pools[job.segment + 1] OR (queue.state = 'parked' AND queue.begun)
          OR queue.account_id <> job.account_id""",
    "a session does not fit its job's state": """
        SELECT job.id FROM job LEFT JOIN session ON session.id = session_id
        WHERE (job.state = 'running') <> (session.id IS NOT NULL)""",
    "a flow's counters are not the queue's": """
        SELECT coalesce(flow.account_id, real.account_id), flow.active, real.active, flow.parked, real.parked
        FROM flow FULL JOIN (
          SELECT account_id, pool, count(*) FILTER (WHERE state IN ('ready', 'leased')) AS active,
            count(*) FILTER (WHERE state = 'parked') AS parked FROM queue GROUP BY 1, 2
        ) AS real USING (account_id, pool)
        WHERE coalesce(real.active, 0) <> flow.active OR coalesce(real.parked, 0) <> flow.parked
          OR flow.account_id IS NULL""",
    "events have a gap": """
        SELECT job.id, job.sequence FROM job LEFT JOIN event ON event.job_id = job.id
        GROUP BY 1 HAVING count(event) <> job.sequence OR max(seq) <> job.sequence OR min(seq) <> 1""",
    "the last state event is not the job's end": """
        SELECT job.id FROM job WHERE finished_at IS NOT NULL AND state IS DISTINCT FROM (
          SELECT data ->> 'status' FROM event WHERE job_id = job.id AND type = 'state' ORDER BY seq DESC LIMIT 1)""",
    "an ended job has several ends": """
        SELECT job_id FROM event WHERE type = 'state' AND data ->> 'status' IN ('succeeded', 'failed', 'cancelled')
        GROUP BY 1 HAVING count(*) > 1""",
    "an attempt is open without a lease, or missing": """
        SELECT job.id FROM job LEFT JOIN attempt ON attempt.job_id = job.id AND attempt.ended_at IS NULL
        GROUP BY job.id HAVING count(attempt) <> (job.state = 'running')::int
          OR bool_or(attempt.fence <> job.fence OR attempt.session_id IS DISTINCT FROM job.session_id)""",
    "a stage is open without a lease": """
        SELECT stage.job_id FROM stage JOIN job ON job.id = stage.job_id
        WHERE stage.ended_at IS NULL AND (job.state <> 'running' OR stage.fence <> job.fence)""",
    "an attempt was not counted": """
        SELECT job.id, job.starts FROM job LEFT JOIN attempt ON attempt.job_id = job.id
        GROUP BY 1 HAVING count(attempt) <> job.starts""",
    "what is held back, or failed after its last attempt, is not in quarantine, or the other way round": """
        SELECT job.id, job.state, queue.state, quarantine.actor FROM job LEFT JOIN queue ON queue.job_id = job.id
          LEFT JOIN quarantine ON quarantine.job_id = job.id
        WHERE (quarantine.actor IS NOT NULL) <> (queue.state IS NOT DISTINCT FROM 'quarantined')
          OR quarantine.reason IS NOT NULL AND quarantine.actor IS NULL AND job.state <> 'failed'""",
    "outputs without success": "SELECT id FROM job WHERE state <> 'succeeded' AND outputs <> '[]'",
}

_NONE_AT_REST = {
    "a parked job has room": """
        SELECT flow.account_id, flow.pool FROM flow JOIN account ON account.id = flow.account_id
        WHERE parked > 0 AND active < concurrency""",
    "a job runs for an ended session": """
        SELECT job.id FROM job JOIN session ON session.id = job.session_id WHERE session.ended_at IS NOT NULL""",
}


def _quoted(text: str) -> str:
    return text.replace("'", "''")


async def broken(database: Database, *, at_rest: bool = True) -> list[str]:
    """Every invariant that does not hold, with the rows that break it. `at_rest`: no sweep is due either."""
    rules = _NONE_OF | (_NONE_AT_REST if at_rest else {})
    # One statement, so that it is one round trip and is planned once.
    rows = await database.fetch(
        " UNION ALL ".join(
            f"(SELECT '{_quoted(rule)}' AS rule, found::text AS found FROM ({query}) AS found LIMIT 5)"
            for rule, query in rules.items()
        )
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["rule"], []).append(row["found"])
    return [f"{rule}: {examples}" for rule, examples in found.items()]
