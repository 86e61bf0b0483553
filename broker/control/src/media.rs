//! Commands for descriptor sets, and for the media of CD drives, which are opened from descriptor sets.
use crate::clients::CallError;
use crate::outcome::{Outcome, QmpError};
use crate::session_state::Shared;
use bulkhead_control_api::v1;
use bulkhead_control_api::v1::call::Call;
use bulkhead_plan::{DriveConfig, Slot};
use rustix::fd::{AsFd as _, OwnedFd};
use serde_json::{Value, json};
use std::sync::PoisonError;

impl Shared {
    /// query-fdsets. In a stub domain libxl repeats it until the disk that it has attached is listed.
    pub(crate) async fn query_fdsets(&self) -> Outcome {
        let sets = || self.fdsets.lock().unwrap_or_else(PoisonError::into_inner);
        if self.plan.dump_dir.is_none() {
            let asked = sets().newest;
            let (disks, fds) = self.launcher.disks(asked).await.map_err(QmpError::generic)?;
            sets().update(&disks, fds, asked);
        }
        Ok(sets().list())
    }

    /// add-fd: adds the descriptor that was sent with the command.
    pub(crate) fn add_fd(&self, arguments: &Value, fd: Option<OwnedFd>) -> Outcome {
        let fd = fd.ok_or_else(|| QmpError::generic("No file descriptor supplied via SCM_RIGHTS"))?;
        let wanted = arguments.get("fdset-id").and_then(Value::as_u64).and_then(|i| u32::try_from(i).ok());
        let opaque = arguments.get("opaque").and_then(Value::as_str).map(str::to_owned);
        let id = self.fdsets.lock().unwrap_or_else(PoisonError::into_inner).add(wanted, opaque, fd)?;
        Ok(json!({ "fdset-id": id, "fd": id }))
    }

    /// remove-fd: removes a set.
    pub(crate) fn remove_fd(&self, arguments: &Value) -> Outcome {
        let id = arguments.get("fdset-id").and_then(Value::as_u64).and_then(|i| u32::try_from(i).ok());
        let id = id.ok_or_else(|| QmpError::generic("Parameter 'fdset-id' is missing"))?;
        self.fdsets.lock().unwrap_or_else(PoisonError::into_inner).remove(id)?;
        Ok(json!({}))
    }

    /// The CD drive that a command refers to, and the slot of its controller.
    fn cd_drive(&self, arguments: &Value) -> Result<(Slot, DriveConfig), QmpError> {
        let id = ["id", "device"].iter().find_map(|key| arguments.get(key)).and_then(Value::as_str);
        let id = id.ok_or_else(|| QmpError::generic("Parameter 'id' is missing"))?;
        let drive = self.plan.devices.iter().find_map(|d| {
            let drive = d.config.facets().drives.iter().find(|drive| drive.id == id)?;
            Some((d.slot, drive.clone()))
        });
        let (slot, drive) = drive.ok_or_else(|| QmpError::not_found(format!("Device '{id}' not found")))?;
        if !drive.cdrom {
            return Err(QmpError::generic(format!("the medium of disk '{id}' cannot be changed")));
        }
        Ok((slot, drive))
    }

    /// eject: afterwards neither the drive's process nor the launcher holds a descriptor of the medium.
    pub(crate) async fn eject(&self, arguments: &Value) -> Outcome {
        let (slot, drive) = self.cd_drive(arguments)?;
        let force = arguments.get("force").and_then(Value::as_bool).unwrap_or(false);
        self.take_out(slot, &drive, force).await?;
        Ok(json!({}))
    }

    async fn take_out(&self, slot: Slot, drive: &DriveConfig, force: bool) -> Result<(), QmpError> {
        let call = Call::Eject(v1::EjectRequest { drive: u32::from(drive.at.port), force });
        self.clients.call(slot, call).await.map_err(|e| match e {
            CallError::NotRunning => QmpError::generic("the drive's process does not run"),
            e => QmpError::generic(format!("Device '{}': {e}", drive.id)),
        })?;
        self.launcher.medium(slot, drive.at, None).await.map_err(QmpError::generic)?;
        self.note_medium(&drive.id, None);
        Ok(())
    }

    /// blockdev-change-medium: replaces the medium, if any, by the one of a descriptor set.
    pub(crate) async fn change_medium(&self, arguments: &Value) -> Outcome {
        let (slot, drive) = self.cd_drive(arguments)?;
        if !matches!(arguments.get("format").and_then(Value::as_str), None | Some("raw" | "host_device")) {
            return Err(QmpError::generic("the formats are raw and host_device"));
        }
        let filename = arguments.get("filename").and_then(Value::as_str);
        let filename = filename.ok_or_else(|| QmpError::generic("Parameter 'filename' is missing"))?;
        let fd = self.fdsets.lock().unwrap_or_else(PoisonError::into_inner).named(filename)?;
        let fd = fd.ok_or_else(|| {
            QmpError::generic("this process opens no files; pass a descriptor by add-fd: /dev/fdset/N")
        })?;
        let name = self.fdsets.lock().unwrap_or_else(PoisonError::into_inner).client_name(filename);
        let force = arguments.get("force").and_then(Value::as_bool).unwrap_or(false);
        self.take_out(slot, &drive, force).await?;
        let token = self.launcher.medium(slot, drive.at, Some(fd.as_fd())).await.map_err(QmpError::generic)?;
        let call = Call::Insert(v1::InsertRequest { drive: u32::from(drive.at.port), token });
        match self.clients.call(slot, call).await {
            Ok(()) => {}
            Err(CallError::NotRunning) => {
                return Err(QmpError::generic(
                    "the drive's process does not run; it will have the medium when it does",
                ));
            }
            Err(e) => {
                // The restarted process must not have a medium that this one has not.
                let _ = self.launcher.medium(slot, drive.at, None).await;
                return Err(QmpError::generic(format!("Device '{}': {e}", drive.id)));
            }
        }
        self.note_medium(&drive.id, Some(name));
        Ok(json!({}))
    }
}
