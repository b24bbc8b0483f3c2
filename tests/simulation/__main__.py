import sys
from simulation.scenario import draw
from simulation.world import play
import time, traceback
a,b=int(sys.argv[1]),int(sys.argv[2])
t=time.time(); bad=0; hours=0; steps=0
for seed in range(a,b):
    t1=time.time()
    r=play(draw(seed))
    dt=time.time()-t1
    hours+=r.hours; steps+=r.steps
    if dt>1: print("slow",seed,dt,r.steps,r.hours,r.calls, [x.mode for x in draw(seed).tasks])
    if r.violation:
        bad+=1
        print(seed,r.violation, len(r.history))
        if b-a==1:
            print("\n".join(r.history[-60:])); 
            c=r.violation.__cause__
            if c: traceback.print_exception(c)
print("time",time.time()-t,"bad",bad,"hours",hours,"steps",steps)
