#!/bin/sh
# Says what to type once the proxy of `make run` is up.
cat <<'T'

The proxy will listen on 127.0.0.1:8080. In a second terminal, in this folder:

  1. Lead this shell's programs to the proxy:
       eval "$(./caddy starpod env)"

  2. Seal a secret (it is asked for, and bound to the hosts of its name):
       GITHUB_TOKEN=$(./caddy starpod seal --key-file .starpod/db/.vault_key --name GITHUB_TOKEN)

  3. Use it; the API gets the secret, you keep a token:
       curl -H "Authorization: Bearer $GITHUB_TOKEN" https://api.github.com/user

Or all of it in one line, without this proxy:
       ./caddy starpod run --secret GITHUB_TOKEN -- your-agent

T
