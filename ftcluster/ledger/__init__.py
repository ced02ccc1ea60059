"""The truth about sweeps, trials and trainings, in one SQL database. Import the module that owns the name you need."""
