import argparse, runpy, sys, logging
import flux
logging.basicConfig(level="INFO")
p = argparse.ArgumentParser()
p.add_argument("--load"); p.add_argument("--adapter"); p.add_argument("--stages"); p.add_argument("--exit-when-idle", type=float); p.add_argument("task")
a = p.parse_args()
names = runpy.run_path(a.load)
sys.exit(flux.Worker(names[a.task], adapter=a.adapter, stages=a.stages, exit_when_idle=a.exit_when_idle).run())
