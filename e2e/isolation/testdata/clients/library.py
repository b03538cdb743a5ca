"""Asks for the URL in URL with the library in the argument, with the token as a
bearer, and prints the answer."""
import asyncio
import os
import sys

url, headers = os.environ["URL"], {"Authorization": "Bearer " + os.environ["API_KEY"]}


def with_urllib():
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return answer.read().decode()


def with_requests():
    import requests

    answer = requests.get(url, headers=headers)
    answer.raise_for_status()
    return answer.text


def with_httpx():
    import httpx

    answer = httpx.get(url, headers=headers)
    answer.raise_for_status()
    return answer.text


def with_aiohttp(trust_env=False):
    import aiohttp

    async def ask():
        async with aiohttp.ClientSession(trust_env=trust_env, raise_for_status=True) as session:
            async with session.get(url, headers=headers) as answer:
                return await answer.text()

    return asyncio.run(ask())


def with_aiohttp_trust_env():
    return with_aiohttp(trust_env=True)


print(globals()["with_" + sys.argv[1]](), end="")
