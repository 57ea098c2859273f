"""One Flask route that returns a constant: the least that a request costs under gunicorn."""

from flask import Flask

app = Flask("bare", static_folder=None)


@app.get("/hello")
def hello():
    """Return a constant."""
    return {"message": "Welcome to Package API"}
