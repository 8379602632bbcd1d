//! An OpenSSH server of one's own: its folder, its keys, a free port on loopback, and nobody but us
//! let in. Needs no root.

use super::Home;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SERVER: &str = "/usr/sbin/sshd";
/// It listens within this time.
const READY_MAX: Duration = Duration::from_secs(20);

pub struct Sshd {
    dir: PathBuf,
    user: String,
    process: Child,
    pub at: SocketAddr,
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

impl Sshd {
    /// `None`, with a line that says why, where there is no OpenSSH.
    pub fn start(home: &Home) -> Option<Sshd> {
        let version = |client: &str| Command::new(client).arg("-V").output().is_ok();
        if !Path::new(SERVER).exists() || !version("ssh") {
            println!("SKIPPED: OpenSSH is not installed, so neither ssh nor scp was tried");
            return None;
        }
        let dir = home.beside("sshd");
        std::fs::create_dir(&dir).unwrap();
        for key in ["host", "user"] {
            let mut generate = Command::new("ssh-keygen");
            generate.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key));
            output(&mut generate).expect("a key");
        }
        if rustix::process::getuid().is_root() {
            // Where its unprivileged half lives; the system's service makes it at each start.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let shown = dir.display();
        let config = format!(
            "Port {}\nListenAddress 127.0.0.1\nHostKey {shown}/host\n\
             AuthorizedKeysFile {shown}/user.pub\nStrictModes no\nUsePAM no\nPidFile none\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             Subsystem sftp internal-sftp\n",
            free.port()
        );
        std::fs::write(dir.join("config"), config).unwrap();
        let user = output(Command::new("id").arg("-un")).expect("a name");
        let log = File::create(dir.join("log")).unwrap();
        let mut command = Command::new(SERVER);
        command.args(["-D", "-e", "-f"]).arg(dir.join("config")).stdin(Stdio::null()).stderr(log);
        let mut server = Sshd { process: command.spawn().unwrap(), dir, user, at: free };
        super::wait_at_most(READY_MAX, "sshd listens", || {
            let ended = server.process.try_wait().unwrap();
            assert!(ended.is_none(), "sshd ended: {}", server.log());
            TcpStream::connect(free).is_ok()
        });
        Some(server)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// `ssh` or `scp` to where the server is reached, without any settings of the user's.
    pub fn client(&self, program: &str, at: SocketAddr) -> Command {
        let mut command = Command::new(program);
        let port = if program == "scp" { "-P" } else { "-p" };
        command.args(["-F", "none", "-q", port, &at.port().to_string()]);
        command.arg("-i").arg(self.dir.join("user"));
        let known = format!("UserKnownHostsFile={}", self.dir.join("known").display());
        for option in ["IdentitiesOnly=yes", "BatchMode=yes", "StrictHostKeyChecking=no", &known] {
            command.args(["-o", option]);
        }
        command.stdin(Stdio::null());
        command
    }

    /// How clients name us on the server.
    pub fn us(&self) -> String {
        format!("{}@127.0.0.1", self.user)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
