"""`python -m slavc`, for `torchrun -m slavc`: the command line."""
from .cli import app

app()
