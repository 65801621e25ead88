-- Jobs whose time on record is over go, and their attempts with them.

-- An attempt may go from each of its states now (see jobs/states.py), so that nothing is left for this trigger to refuse.
DROP TRIGGER IF EXISTS attempt_last_state ON attempt;
