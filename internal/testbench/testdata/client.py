"""Posts the token in API_TOKEN to the URL in the argument, as a bearer token and
in a JSON body, and prints the answer. It knows no proxy."""
import os
import sys
import urllib.request

token = os.environ["API_TOKEN"]
request = urllib.request.Request(
    sys.argv[1],
    data=('{"key":"%s"}' % token).encode(),
    headers={"Authorization": "Bearer " + token, "Content-Type": "application/json"},
)
with urllib.request.urlopen(request) as answer:
    sys.stdout.write(answer.read().decode())
