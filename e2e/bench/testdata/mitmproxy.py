"""Writes a value in the place of a placeholder in Authorization."""
import os

PLACEHOLDER, VALUE = os.environ["PLACEHOLDER"], os.environ["VALUE"]


def requestheaders(flow):
    fields = flow.request.headers
    if "authorization" in fields:
        fields["authorization"] = fields["authorization"].replace(PLACEHOLDER, VALUE)
