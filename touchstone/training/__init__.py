"""Training of reward models: the losses, the plan of steps, and the trainer.

accelerate launch --config_file configs/accelerate/cpu.yaml -m touchstone.training
"""
