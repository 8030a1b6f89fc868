# One image for nodes, routers and every command: `docker build -t seonchak .`
#
# It writes nothing: run it with a read-only root file system. A node on the `file` journal needs one writable directory.

FROM python:3.13-slim AS build
WORKDIR /build
RUN python -m venv /opt/seonchak
# What changes seldom first: the dependencies, as pinned.
COPY pyproject.toml constraints.txt README.md ./
RUN /opt/seonchak/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && /opt/seonchak/bin/pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt
COPY proto proto
COPY cluster cluster
COPY node node
COPY router router
COPY ops ops
COPY bench bench
COPY chaos chaos
RUN /opt/seonchak/bin/pip install --no-cache-dir --constraint constraints.txt --no-deps . \
    && /opt/seonchak/bin/pip uninstall --yes pip

FROM python:3.13-slim
COPY --from=build /opt/seonchak /opt/seonchak
ENV PATH=/opt/seonchak/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
EXPOSE 7000 50051 9464
# Of a router. A node's container asks with `seonchak health --node` instead: see docker-compose.yml.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 CMD ["seonchak", "health"]
ENTRYPOINT ["seonchak"]
CMD ["--help"]
