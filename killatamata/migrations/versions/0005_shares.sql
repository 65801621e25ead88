-- Nobody takes more than a share: of running jobs, of what is stored for nothing, of what tells others of their jobs.

DROP FUNCTION IF EXISTS cancel_due;
