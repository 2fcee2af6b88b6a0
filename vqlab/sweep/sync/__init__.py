"""Synchronize MLflow with a study: state of runs, views, deletion of files of other trials."""
