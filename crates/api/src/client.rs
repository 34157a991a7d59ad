//! The client: one method per route of the daemon, one connection per request.
//!
//! It does not start the daemon and prints nothing. A daemon that cannot be reached is
//! [`Code::DaemonUnavailable`]; an answer that is an
//! error is that error, with its code, hint and operation.

mod connection;
mod events;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use banger_model::{Code, Error, Result};
use bytes::Bytes;
use futures_util::Stream;
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{
    CatalogImage, CatalogKernel, CreateVm, DaemonInfo, DeleteOptions, Image, ImageDetails,
    ImportKernel, Kernel, KillSignal, KillVm, LoadImage, Operation, OperationState, PromoteVm,
    PruneImages, PrunedImages, Pull, PullImage, RegisterImage, SetVm, Stage, Vm, VmStats,
    Workspace,
};
use connection::Connection;
pub use events::{Events, Lease};

/// Speaks to one daemon. Cloning it is cheap; clones share [`Client::daemon_version`].
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    daemon_version: Arc<Mutex<Option<String>>>,
}

impl Client {
    /// A client for the daemon that listens on `socket`. Does not connect.
    pub fn new(socket: PathBuf) -> Client {
        Client {
            socket,
            daemon_version: Arc::default(),
        }
    }

    /// The daemon's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The release of the daemon that answered last; absent before the first answer.
    pub fn daemon_version(&self) -> Option<String> {
        self.daemon_version
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// `GET /v1/daemon`
    ///
    /// # Errors
    /// `daemon_unavailable` when nothing listens on the socket.
    pub async fn daemon(&self) -> Result<DaemonInfo> {
        self.get("/v1/daemon").await
    }

    /// `POST /v1/daemon/stop`: the daemon stops serving and ends; VMs live on.
    ///
    /// # Errors
    /// `daemon_unavailable` when nothing listens on the socket.
    pub async fn stop_daemon(&self) -> Result<()> {
        self.send::<()>(Method::POST, "/v1/daemon/stop", None)
            .await?
            .finish()
            .await
    }

    /// `GET /v1/vms`, in order of creation.
    ///
    /// # Errors
    /// Those of the daemon.
    pub async fn vms(&self) -> Result<Vec<Vm>> {
        self.get("/v1/vms").await
    }

    /// `GET /v1/vms/{ref}`: by exact name, id, or unique prefix of either.
    ///
    /// # Errors
    /// `not_found`; `ambiguous`, listing the candidates.
    pub async fn vm(&self, reference: &str) -> Result<Vm> {
        self.get(&vm_path(reference, "")?).await
    }

    /// `POST /v1/vms`: returns as soon as the name is taken; the operation carries the id.
    ///
    /// # Errors
    /// `invalid_argument`; `already_exists` when the name is taken.
    pub async fn create_vm(&self, request: &CreateVm) -> Result<Operation> {
        self.post("/v1/vms", Some(request)).await
    }

    /// `POST /v1/vms/{ref}/start`: a running VM is a success at once.
    ///
    /// # Errors
    /// `not_found`, `ambiguous`, `conflict`.
    pub async fn start_vm(&self, reference: &str) -> Result<Operation> {
        self.post::<()>(&vm_path(reference, "/start")?, None).await
    }

    /// `POST /v1/vms/{ref}/stop`: a stopped VM is a success at once.
    ///
    /// # Errors
    /// `not_found`, `ambiguous`, `conflict`.
    pub async fn stop_vm(&self, reference: &str) -> Result<Operation> {
        self.post::<()>(&vm_path(reference, "/stop")?, None).await
    }

    /// `POST /v1/vms/{ref}/restart`: a stop and a start as one; a stopped VM is only started.
    ///
    /// # Errors
    /// `not_found`, `ambiguous`, `conflict`.
    pub async fn restart_vm(&self, reference: &str) -> Result<Operation> {
        self.post::<()>(&vm_path(reference, "/restart")?, None)
            .await
    }

    /// `POST /v1/vms/{ref}/kill`: a stopped VM is a success at once.
    ///
    /// # Errors
    /// `not_found`, `ambiguous`, `conflict`.
    pub async fn kill_vm(&self, reference: &str, signal: KillSignal) -> Result<Operation> {
        self.post(&vm_path(reference, "/kill")?, Some(&KillVm { signal }))
            .await
    }

    /// `PATCH /v1/vms/{ref}`: the next start uses it.
    ///
    /// # Errors
    /// `not_found`, `ambiguous`; `invalid_argument` for values that cannot be, a smaller disk
    /// among them; `conflict` for a change that a running VM cannot take.
    pub async fn set_vm(&self, reference: &str, change: &SetVm) -> Result<Operation> {
        self.send(Method::PATCH, &vm_path(reference, "")?, Some(change))
            .await?
            .json()
            .await
    }

    /// `GET /v1/stats`: every VM, in order of creation.
    ///
    /// # Errors
    /// Those of the daemon.
    pub async fn stats(&self) -> Result<Vec<VmStats>> {
        self.get("/v1/stats").await
    }

    /// `DELETE /v1/vms/{ref}`: in whatever state it is, unless the options say otherwise. Work
    /// that is in no export is saved first; the operation says where.
    ///
    /// # Errors
    /// `not_found`, `ambiguous`; `conflict`, from the operation too, when it is only to be deleted
    /// if it does not run, and runs. From the operation, also whatever keeps work from being
    /// saved: the VM then stays.
    pub async fn delete_vm(&self, reference: &str, options: DeleteOptions) -> Result<Operation> {
        let query = match (options.only_stopped, options.discard) {
            (false, false) => "",
            (true, false) => "?only=stopped",
            (false, true) => "?discard=true",
            (true, true) => "?only=stopped&discard=true",
        };
        self.send::<()>(Method::DELETE, &vm_path(reference, query)?, None)
            .await?
            .json()
            .await
    }

    /// `GET /v1/images`
    ///
    /// # Errors
    /// Those of the daemon.
    pub async fn images(&self) -> Result<Vec<Image>> {
        self.get("/v1/images").await
    }

    /// `GET /v1/images/{name}`
    ///
    /// # Errors
    /// `not_found`.
    pub async fn image(&self, name: &str) -> Result<ImageDetails> {
        self.get(&image_path(name, "")?).await
    }

    /// `GET /v1/catalog/images`: what can be pulled by name.
    ///
    /// # Errors
    /// Those of the daemon.
    pub async fn image_catalog(&self) -> Result<Vec<CatalogImage>> {
        self.get("/v1/catalog/images").await
    }

    /// `POST /v1/images`: pulls from a catalog or a registry. An image of a catalog that is here
    /// already is a success at once.
    ///
    /// # Errors
    /// `invalid_argument` for a name that cannot be one; `not_found` for an unknown kernel.
    pub async fn pull_image(&self, request: &PullImage) -> Result<Operation> {
        self.post("/v1/images", Some(request)).await
    }

    /// `POST /v1/images:register`: makes an image of an ext4 file.
    ///
    /// # Errors
    /// `invalid_argument` for a file that is no sound ext4 file system and a config that makes
    /// no sense; `not_found` when there is no such file or kernel; `already_exists`.
    pub async fn register_image(&self, request: &RegisterImage) -> Result<Operation> {
        self.post("/v1/images:register", Some(request)).await
    }

    /// `POST /v1/images:load`: makes an image of an archive, whose bytes are to follow with
    /// [`Client::send_input`].
    ///
    /// # Errors
    /// `invalid_argument` for what cannot be; `not_found` for an unknown kernel.
    pub async fn load_image(&self, request: &LoadImage) -> Result<Operation> {
        self.post("/v1/images:load", Some(request)).await
    }

    /// `POST /v1/vms/{ref}/promote`: makes an image of a stopped VM, which stays as it is.
    ///
    /// # Errors
    /// `not_found`, `ambiguous`; `conflict`, from the operation, when it is not stopped;
    /// `already_exists`.
    pub async fn promote_vm(&self, reference: &str, request: &PromoteVm) -> Result<Operation> {
        self.post(&vm_path(reference, "/promote")?, Some(request))
            .await
    }

    /// `DELETE /v1/images/{name}`: with `force` also while VMs use it, which keep it until the
    /// last of them is gone.
    ///
    /// # Errors
    /// `not_found`; `conflict`, from the operation, naming the VMs that use it.
    pub async fn delete_image(&self, name: &str, force: bool) -> Result<Operation> {
        let path = image_path(name, if force { "?force=true" } else { "" })?;
        self.send::<()>(Method::DELETE, &path, None)
            .await?
            .json()
            .await
    }

    /// `POST /v1/images:prune`: removes what nobody needs, or says what that is.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn prune_images(&self, request: &PruneImages) -> Result<PrunedImages> {
        self.send(Method::POST, "/v1/images:prune", Some(request))
            .await?
            .json()
            .await
    }

    /// `PUT /v1/operations/{id}/input`: the bytes that an operation waits for, to their end. An
    /// error in the stream ends the operation.
    ///
    /// # Errors
    /// `conflict` when it waits for none; `daemon_unavailable` when the connection breaks, which
    /// it also does when the operation ends before its input.
    pub async fn send_input<S>(&self, id: &str, input: S) -> Result<()>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let path = operation_path(id, "/input")?;
        let connection = Connection::open(&self.socket).await?;
        let answer = connection.upload(&path, input).await?;
        if answer.status() >= StatusCode::BAD_REQUEST {
            return Err(answer.into_error().await);
        }
        answer.finish().await
    }

    /// `GET /v1/kernels`
    ///
    /// # Errors
    /// Those of the daemon.
    pub async fn kernels(&self) -> Result<Vec<Kernel>> {
        self.get("/v1/kernels").await
    }

    /// `POST /v1/kernels`: pulls from the catalog; one that is there already is a success.
    ///
    /// # Errors
    /// `invalid_argument` for a name that cannot be one.
    pub async fn pull_kernel(&self, name: &str) -> Result<Operation> {
        let name = name.to_owned();
        self.post("/v1/kernels", Some(&Pull { name })).await
    }

    /// `GET /v1/kernels/{name}`
    ///
    /// # Errors
    /// `not_found`.
    pub async fn kernel(&self, name: &str) -> Result<Kernel> {
        self.get(&kernel_path(name)?).await
    }

    /// `PUT /v1/kernels/{name}`: imports a kernel of one's own.
    ///
    /// # Errors
    /// `invalid_argument` for a name or paths that cannot be; `conflict` while another import
    /// makes it. What is wrong with the files shows in the operation.
    pub async fn import_kernel(&self, name: &str, request: &ImportKernel) -> Result<Operation> {
        self.send(Method::PUT, &kernel_path(name)?, Some(request))
            .await?
            .json()
            .await
    }

    /// `DELETE /v1/kernels/{name}`
    ///
    /// # Errors
    /// `not_found`; `conflict`, from the operation too, when a VM or an image uses it.
    pub async fn delete_kernel(&self, name: &str) -> Result<Operation> {
        self.send::<()>(Method::DELETE, &kernel_path(name)?, None)
            .await?
            .json()
            .await
    }

    /// `GET /v1/catalog/kernels`: what can be pulled by name.
    ///
    /// # Errors
    /// Those of the daemon.
    pub async fn kernel_catalog(&self) -> Result<Vec<CatalogKernel>> {
        self.get("/v1/catalog/kernels").await
    }

    /// `GET /v1/operations/{id}`
    ///
    /// # Errors
    /// `not_found` when there is none, or it finished long ago.
    pub async fn operation(&self, id: &str) -> Result<Operation> {
        self.get(&operation_path(id, "")?).await
    }

    /// `POST /v1/operations/{id}/cancel`: asks for the end; the operation then fails with
    /// `cancelled` once everything it did is undone. One that has ended stays as it is.
    ///
    /// # Errors
    /// `not_found`; `conflict` for an operation that cannot be cancelled, such as a delete.
    pub async fn cancel(&self, id: &str) -> Result<Operation> {
        self.post::<()>(&operation_path(id, "/cancel")?, None).await
    }

    /// `GET /v1/operations/{id}/events`: the operation as it is now, then each change.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn events(&self, id: &str) -> Result<Events> {
        let path = operation_path(id, "/events")?;
        let answer = self.send::<()>(Method::GET, &path, None).await?;
        Ok(Events::new(answer))
    }

    /// Waits for the operation's end, showing each new stage and fraction to `progress`.
    ///
    /// # Errors
    /// The operation's own error when it failed; `daemon_unavailable` when the daemon went
    /// away, in which case the operation's outcome is unknown.
    pub async fn wait(&self, id: &str, mut progress: impl FnMut(&Stage)) -> Result<Operation> {
        let mut events = self.events(id).await?;
        let mut shown = None;
        while let Some(operation) = events.next().await? {
            if let Some(stage) = &operation.stage
                && shown.as_ref() != Some(stage)
            {
                progress(stage);
                shown = Some(stage.clone());
            }
            match operation.state {
                OperationState::Running => {}
                OperationState::Succeeded => return Ok(operation),
                OperationState::Failed => return Err(failure(operation)),
            }
        }
        Err(connection::went_away(&self.socket))
    }

    /// `GET /v1/vms/{ref}/lease`: keeps an ephemeral VM until the lease is dropped.
    ///
    /// # Errors
    /// `not_found`; `conflict` when the VM is not ephemeral.
    pub async fn lease(&self, reference: &str) -> Result<Lease> {
        let path = vm_path(reference, "/lease")?;
        let answer = self.send::<()>(Method::GET, &path, None).await?;
        Ok(Lease::new(answer))
    }

    /// `PUT /v1/vms/{ref}/workspace`: records what was copied in. Whoever copies or exports holds
    /// the [turn](Self::workspace_turn).
    ///
    /// # Errors
    /// `not_found`, `ambiguous`; `invalid_argument` for a record that makes no sense.
    pub async fn set_workspace(&self, reference: &str, workspace: &Workspace) -> Result<Vm> {
        let path = vm_path(reference, "/workspace")?;
        self.send(Method::PUT, &path, Some(workspace))
            .await?
            .json()
            .await
    }

    /// `GET /v1/vms/{ref}/workspace/turn`: waits until nobody else works on the VM's workspace,
    /// and keeps others waiting until the lease is dropped. It ends early when the VM goes away
    /// or the daemon stops.
    ///
    /// # Errors
    /// `not_found`, `ambiguous`.
    pub async fn workspace_turn(&self, reference: &str) -> Result<Lease> {
        let path = vm_path(reference, "/workspace/turn")?;
        let answer = self.send::<()>(Method::GET, &path, None).await?;
        let mut turn = Lease::new(answer);
        turn.held().await?;
        Ok(turn)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send::<()>(Method::GET, path, None).await?.json().await
    }

    async fn post<B: Serialize>(&self, path: &str, body: Option<&B>) -> Result<Operation> {
        self.send(Method::POST, path, body).await?.json().await
    }

    /// Sends one request and takes the head of the answer; an error answer becomes an error.
    async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<connection::Answer> {
        let body = match body {
            Some(body) => Some(serde_json::to_vec(body).map_err(|error| {
                Error::internal("cannot write a request as JSON").because(error)
            })?),
            None => None,
        };
        let connection = Connection::open(&self.socket).await?;
        let answer = connection.request(method, path, body).await?;
        if let Some(version) = answer.daemon_version() {
            *self
                .daemon_version
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(version);
        }
        if answer.status() >= StatusCode::BAD_REQUEST {
            return Err(answer.into_error().await);
        }
        Ok(answer)
    }
}

/// The error of an operation that failed.
fn failure(operation: Operation) -> Error {
    match operation.error {
        Some(body) => {
            let error = Error::from(body);
            match error.op_id() {
                Some(_) => error,
                None => error.operation(operation.id),
            }
        }
        None => Error::internal(format!(
            "operation {} failed without a reason",
            operation.id
        )),
    }
}

fn vm_path(reference: &str, rest: &str) -> Result<String> {
    if reference.is_empty() {
        return Err(
            Error::new(Code::InvalidArgument, "the name of the VM is empty")
                .hint("`banger vm list` shows the VMs there are"),
        );
    }
    Ok(format!("/v1/vms/{}{rest}", encode(reference)))
}

fn image_path(name: &str, rest: &str) -> Result<String> {
    if name.is_empty() {
        return Err(
            Error::new(Code::InvalidArgument, "the name of the image is empty")
                .hint("`banger image list` shows the images there are"),
        );
    }
    Ok(format!("/v1/images/{}{rest}", encode(name)))
}

fn kernel_path(name: &str) -> Result<String> {
    if name.is_empty() {
        return Err(
            Error::new(Code::InvalidArgument, "the name of the kernel is empty")
                .hint("`banger kernel list` shows the kernels there are"),
        );
    }
    Ok(format!("/v1/kernels/{}", encode(name)))
}

fn operation_path(id: &str, rest: &str) -> Result<String> {
    if id.is_empty() {
        return Err(Error::new(
            Code::InvalidArgument,
            "the id of the operation is empty",
        ));
    }
    Ok(format!("/v1/operations/{}{rest}", encode(id)))
}

/// Percent-encodes a path segment: whatever a user types reaches the daemon as typed. A lone
/// dot segment would be taken for a step through the path, so dots are encoded as well.
fn encode(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_types_cannot_change_the_route() {
        assert_eq!(encode("box-1"), "box-1");
        assert_eq!(encode("../images?x#y"), "%2E%2E%2Fimages%3Fx%23y");
        assert_eq!(encode("ä b"), "%C3%A4%20b");
        assert_eq!(
            vm_path("", "/start").unwrap_err().code(),
            Code::InvalidArgument
        );
    }

    #[tokio::test]
    async fn an_absent_and_a_refused_socket_say_that_there_is_no_daemon() {
        let dir = std::env::temp_dir().join(format!("banger-api-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("bangerd.sock");
        let client = Client::new(socket.clone());
        let absent = client.daemon().await.unwrap_err();
        assert_eq!(absent.code(), Code::DaemonUnavailable);
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let refused = client.daemon().await.unwrap_err();
        assert_eq!(refused.code(), Code::DaemonUnavailable);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
