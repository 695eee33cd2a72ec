"""The review page: a web application, rendered on the server, that works without internet.

    keys             who may log in, and with which role
    login            sessions: a signed cookie, ended at once when a person is removed
    csrf             what a request must bring before anything is changed
    web              what all pages share: rendering, who asks, which alias
    app              the application
    serving          uvicorn, and the sweep that keeps the queue fresh
    pages/           one module a page
    item, texts      what the page Queue shows of a row
    looks/, figures/ what the other pages show, and their pictures

Covers no TLS: put a proxy before it where it listens anywhere but on this machine.
"""
