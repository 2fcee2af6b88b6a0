"""Keep MLflow in agreement with a study: state of its runs, views, files of beaten trials."""
