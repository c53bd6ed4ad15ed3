"""The static tests of k8s/ and .github/: every check has a name, all of them run, one that fails fails the run."""

import sys

import consistency
import docs
import howto
import mesh
import rendering
import tools
from suite import Suite

suite = Suite()
for part in (rendering, consistency, mesh, docs, howto, tools):
    part.run(suite)
sys.exit(suite.finish())
