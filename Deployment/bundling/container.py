"""The files with which a bundle runs in containers: Dockerfile, compose.yaml, kubernetes.yaml.

In all of them the service runs as a user without rights, on a read-only file system, with limits, and is asked for its
health. They are filled in with $-templates: `experiment`, and `name`, the experiment in the form of a DNS label.
"""

import platform
import re
from string import Template

DOCKERFILE = """\
FROM python:$python-slim

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /srv
COPY requirements.txt ./
RUN python -m pip install --no-cache-dir --disable-pip-version-check --requirement requirements.txt
COPY . .
RUN find . ! -perm -o=r -exec chmod a+rX {} +
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \\
    CMD ["python", "-c", "import urllib.request as u; \\
u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:8000/health/ready', timeout=3)"]
ENTRYPOINT ["python", "-m", "Deployment.serve", ".", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--parallel", "2"]
"""
DOCKERIGNORE = """\
**/__pycache__
.env
.git
.venv
"""
COMPOSE = """\
# docker compose up --build; FOURFOLD_API_KEY, if it is set here, is asked for there
name: $name
services:
  service:
    build: .
    command: ["--parallel", "2", "--max-pixels", "10000000", "--max-memory", "100000000"]
    environment:
      - FOURFOLD_API_KEY
    ports:
      - "127.0.0.1:8000:8000"
    read_only: true
    tmpfs:
      - /tmp
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    cpus: 2  # Docker starts nothing that asks for more than there are
    mem_limit: 1g
    pids_limit: 200
    stop_grace_period: 12s
    restart: unless-stopped
"""
KUBERNETES = """\
# docker build --tag registry.example.com/$name:v1.0.0 . && docker push registry.example.com/$name:v1.0.0
# kubectl create secret generic $name --from-literal=key=... && kubectl apply --filename kubernetes.yaml
apiVersion: apps/v1
kind: Deployment
metadata:
  name: $name
  labels: {app: $name}
spec:
  replicas: 2
  selector:
    matchLabels: {app: $name}
  template:
    metadata:
      labels: {app: $name}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 20
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: service
          image: registry.example.com/$name:v1.0.0  # yours; a tag for each version, for the way back
          args: ["--parallel", "2", "--max-pixels", "10000000", "--max-memory", "100000000"]
          env:
            - name: FOURFOLD_API_KEY
              valueFrom:
                secretKeyRef: {name: $name, key: key}
          ports:
            - {name: http, containerPort: 8000}
          resources:
            requests: {cpu: "1", memory: 512Mi}
            limits: {cpu: "2", memory: 1Gi}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          startupProbe:
            httpGet: {path: /health/ready, port: http}
            periodSeconds: 1
            failureThreshold: 60
          readinessProbe:
            httpGet: {path: /health/ready, port: http}
            periodSeconds: 5
          livenessProbe:
            httpGet: {path: /health/live, port: http}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          lifecycle:
            preStop:  # until it is out of every load balancer
              exec: {command: ["sleep", "5"]}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: 64Mi}
---
apiVersion: v1
kind: Service
metadata:
  name: $name
spec:
  selector: {app: $name}
  ports:
    - {name: http, port: 80, targetPort: http}
"""
FILES = {
    "Dockerfile": DOCKERFILE,
    ".dockerignore": DOCKERIGNORE,
    "compose.yaml": COMPOSE,
    "kubernetes.yaml": KUBERNETES,
}


def container_files(experiment: str) -> dict[str, str]:
    """Each file's text by its name. The Python is the one that runs here, whose packages requirements.txt names."""
    label = re.sub(r"[^a-z0-9]+", "-", f"fourfold-{experiment}".lower())[:63].strip("-")
    python = ".".join(platform.python_version_tuple()[:2])
    return {name: Template(text).substitute(name=label, python=python) for name, text in FILES.items()}
