# Stand-in for codercom/code-server: same paths, same program (from its npm package), Debian underneath.
FROM croft-test/base:slim
COPY node /usr/lib/code-server/lib/node
COPY code-server /usr/lib/code-server
RUN printf '#!/bin/sh\nexec /usr/lib/code-server/lib/node /usr/lib/code-server "$@"\n' > /usr/bin/code-server \
    && chmod 755 /usr/bin/code-server && useradd --create-home --uid 1000 --shell /bin/bash coder
USER 1000
WORKDIR /home/coder
EXPOSE 8080
ENTRYPOINT ["/usr/bin/code-server", "--bind-addr", "0.0.0.0:8080", "."]
