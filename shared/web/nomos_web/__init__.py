"""What services with web pages share: a site with its checks and headers, templates, static files, a server."""
