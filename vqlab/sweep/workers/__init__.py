"""Workers: processes that run the trials of a study, on this or other machines."""
