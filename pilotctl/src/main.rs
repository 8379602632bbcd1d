mod services;
fn main() {}
