"""After a promotion: verdicts verified again, versions traced to their data. Nothing here changes a model."""
