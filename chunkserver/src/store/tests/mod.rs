mod crash;
mod disks;
mod faults;
mod golden;
mod harness;
mod model;
mod power;
