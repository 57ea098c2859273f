"""A Flask route with nothing to it: the most that Flask under gunicorn gives."""

from flask import Flask

app = Flask("bare", static_folder=None)


@app.get("/hello")
def hello():
    """Answer a constant."""
    return {"message": "Welcome to Package API"}
