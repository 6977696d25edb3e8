"""The daemon's one ASGI app.

    ports.py    what the kernel must offer to be served
    auth.py     who may come in: Host, Origin, rate, token, size, depth, pace
    oauth.py    access tokens of an authorization server elsewhere
    mcp.py      tools, resources and prompts over MCP, both protocol eras
    api.py      the control API for our own command line and console
    pages.py    where a person answers questions in a browser; page_html.py draws them
    sessions.py browsers that are signed in
    gateway.py  the OpenAI-compatible endpoint
    app.py      puts them together and serves them with uvicorn
    proxy.py    ``agentd mcp``: stdio to HTTP, standard library only

Import the modules themselves: this package imports nothing, so that the proxy starts fast.
"""
